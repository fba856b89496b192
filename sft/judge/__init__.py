"""What does a judging model think of the answers? Ask it, read its score, keep it.

Read `ask.py` first: it asks a judge and keeps its judgements. `judge.py` is what all judges share,
and `ollama.py` and `openai.py` are the judges. `prompts.py` holds what a judge is asked, `keep.py`
the judgements and their files. `score.py` is the judge's part of an evaluation.
"""
