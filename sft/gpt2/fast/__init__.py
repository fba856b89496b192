"""What makes the plain form in `model.py` fast on one device?

Each file replaces one plain expression by an equal one, and names the expression in its docstring.
A test of the same name under `tests/gpt2/fast/` compares the two. Read `limits.py` first: it holds
the sizes at which each device changes from one form to the other, and why.
"""

from sft.gpt2.fast.attention import fused_attention_pays
from sft.gpt2.fast.buffers import BufferPool
from sft.gpt2.fast.frozen import Frozen, Int8, Packed, can_pack
from sft.gpt2.fast.head import cross_entropies, embed_tied, loss_slices, overwrites_logits
from sft.gpt2.fast.limits import LIMITS, Limits, row_multiple
from sft.gpt2.fast.products import few_tokens, linear_of_few
from sft.gpt2.fast.shapes import fill_to_multiple

__all__ = [
    "LIMITS",
    "BufferPool",
    "Frozen",
    "Int8",
    "Limits",
    "Packed",
    "can_pack",
    "cross_entropies",
    "embed_tied",
    "few_tokens",
    "fill_to_multiple",
    "fused_attention_pays",
    "linear_of_few",
    "loss_slices",
    "overwrites_logits",
    "row_multiple",
]
