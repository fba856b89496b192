"""GPT-2 alone: network, checkpoint, tokenizer, decoding.

It needs torch and knows nothing of the rest of the package. Read `model.py` first.
"""
