"""How is a tuned model asked one question? Load it with its base, and turn tokens into text.

Read `models.py` first.
"""
