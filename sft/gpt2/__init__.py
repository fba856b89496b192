"""How does GPT-2 compute? The network, its tokenizer, LoRA and decoding.

It imports no other room but `config`. Read `model.py` first; `fast/` is what makes it fast.
"""
