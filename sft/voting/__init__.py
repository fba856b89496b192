"""Which of two answers do people prefer? A page to vote on, and what the votes say.

Read `ballots.py` first: it pairs the answers. `app.py` serves the page, `votes.py` keeps each vote,
and `outcome.py` counts them.
"""
