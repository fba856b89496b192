"""How does text become batches? Files -> records -> prompts -> token ids -> plan -> batches.

Read first, in this order:

    records.py     Record, and SHAPES: the forms of a record in a file
    formats.py     FORMATS: the file formats, and how they are read
    tokens.py      records -> token ids, kept in the cache
    batches.py     the next-token shift, the prompt mask and the padding
    plan.py        which rows form which micro-batch of which step, on which rank
    datamodule.py  all of it, as Lightning asks for it

`python -m sft.data FILE` looks at data before any training: doctor.py, neighbours.py, loops.py.
"""
