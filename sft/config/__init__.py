"""Which choices does a user have, and which combinations of them make sense?

Start with `schema.py`: every key with its type, options and range. What a key means stands beside
its default in `conf/`. `loading.py` turns Hydra's config into these dataclasses, `rules.py` holds
every rule between keys, `help.py` makes the text of `--help`, and `origins.py` says where a setting
that is not a default came from.
"""
