"""What did the model learn? Its answers to held-out instructions and the base's, measured.

Read `run.py` first, which lists what an evaluation is.
"""
