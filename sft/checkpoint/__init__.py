"""Where do weights come from, and where do they go? Hugging Face folders, the hub, adapters, GGUF.

Read `folder.py` first.
"""
