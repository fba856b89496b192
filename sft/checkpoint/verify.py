"""Check that a model and its copy on disk are the same: compare their logits."""

from collections.abc import Sequence
from pathlib import Path

import tiktoken
import torch
from torch import Tensor

from sft.checkpoint.folder import load_pretrained, save_pretrained
from sft.errors import InputError
from sft.gpt2.model import GPT

# Largest distance between the logits, as a share of their spread. It is several times what rounding
# gives in gpt2-nano. A tensor that is misplaced, or not transposed, gives about 1.
TOLERANCE = {"f32": 1e-4, "f16": 0.02, "bf16": 0.1, "q8_0": 0.1}

# A tokenizer has most of this text in its vocabulary, and spells the rest in bytes.
TEXT = "Alan Turing theorized that computers would one day become"


def save_verified(
    model: GPT,
    out: Path,
    tokenizer: tiktoken.Encoding,
    prompt: str | None = None,
    chat_template: str | None = None,
) -> None:
    """Write a model as a Hugging Face folder, and read it back before it counts.

    Args:
        prompt, chat_template: as `save_pretrained` takes them.

    Raises:
        InputError: the folder cannot be written, or holds another model when it is read.
    """
    tokens = tokenizer.encode_ordinary(TEXT)[: model.config.n_positions]
    expected = logits(model, tokens)

    def check(written: Path) -> None:
        check_same(expected, logits(load_pretrained(written).model, tokens), "f32", out)

    save_pretrained(model, out, tokenizer, prompt, chat_template=chat_template, check=check)


@torch.no_grad()
def logits(model: GPT, tokens: Sequence[int]) -> Tensor:
    """Return the logits after each token, (T, V) in fp32."""
    result: Tensor = model.eval()(torch.tensor([tokens]))[0].float()
    return result


def check_same(expected: Tensor, found: Tensor, dtype: str, where: object) -> float:
    """Return the distance between a model's logits and those of its copy in `dtype`.

    It is the root mean square of the difference, divided by the root mean square of the logits.

    Args:
        expected, found: (T, V)
        where: the copy, for the error.

    Raises:
        InputError: the distance is more than the type's rounding explains.
    """
    # A constant added to all logits of a token means nothing: softmax gives the same.
    expected = expected - expected.mean(-1, keepdim=True)
    found = found - found.mean(-1, keepdim=True)
    distance = float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())

    # Written so that NaN is refused.
    limit = TOLERANCE[dtype]
    if not distance <= limit:
        raise InputError(
            f"{where}: read back, it is another model: its logits are {distance:.2g} of their "
            f"spread away from the original's, expected at most {limit:g} for {dtype}; it was "
            "deleted"
        )
    return distance
