"""How does text become batches? records -> prompts -> token ids -> the plan of an epoch -> batches.

Read `records.py` first, then `dataset.py`: the next-token shift and the mask are there.
"""
