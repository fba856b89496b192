"""Where does `gpt2-nano` come from? Its weights, its records, and the generator of its text.

Read `world.py` first.
"""
