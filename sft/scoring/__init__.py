"""How sure is a number? Means, statistics, and the files of results.

Read `sft/metrics.py` first.
"""
