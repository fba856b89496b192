"""GPT-2: the network, its tokenizer, LoRA and decoding.

It imports no other room but `config`. Read `model.py` first; `fast/` is what makes it fast.
"""
