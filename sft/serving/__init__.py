"""How are many callers served at once? The engine, OpenAI's chat API and a page.

Read `engine.py` first.
"""
