"""Which choices does a user have, and which combinations of them make sense?

Start with `schema.py`: every key with its type, options and range. The meaning of a key stands
next to its default in `conf/`. `loading.py` turns Hydra's config into these dataclasses. `rules.py`
holds every rule between keys. `help.py` makes the text of `--help`. `origins.py` says where a
setting that is not a default came from.
"""
