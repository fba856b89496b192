"""How is a tuned model asked one question? Load it with its base, and turn tokens into text.

Read `models.py` first. `stream.py` turns the tokens of an answer into text as they come.
"""
