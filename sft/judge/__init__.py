"""What does a judging model think of the answers? Ask it, read its score, keep it.

Read `ask.py` first.
"""
