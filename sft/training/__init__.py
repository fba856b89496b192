"""What is a run? It learns from batches, and leaves a folder to resume, evaluate and serve.

Start with `run.py`, which lists what a run is, then `module.py`, which takes one optimizer step.
"""
