"""How sure is a number? Means, statistics, and the files of results.

Read `statistics.py` first: the interval of a mean, and the test of a difference. `seeds.py` does
the same over several seeds, and `bradley_terry.py` for votes between models. `results.py` holds the
results of an evaluation and their files, which `aggregate.py` sums up.
"""
