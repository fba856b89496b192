"""How good is an answer, and how sure is that number? Metrics, statistics, and their aggregates.

Read `metrics.py` first.
"""
