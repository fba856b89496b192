"""One run: it learns from batches, and leaves a folder that can be resumed, evaluated and served.

Start with `run.py`, which lists what a run is, then `module.py`, which takes one optimizer step.
"""
