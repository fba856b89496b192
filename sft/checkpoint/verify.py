"""Whether a model that was written somewhere is still the same model: its logits, beside the original's."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sft.errors import InputError
from sft.gpt2.model import GPT

# The largest distance from the original's logits, as a share of their spread: some times what rounding gives in the
# miniature. A tensor in the wrong place, or turned the wrong way, gives about 1.
TOLERANCE = {"f32": 1e-4, "f16": 0.02, "bf16": 0.1, "q8_0": 0.1}


@torch.no_grad()
def logits(model: GPT, tokens: Sequence[int]) -> Tensor:
    """What comes after each token, (T, V) in fp32."""
    result: Tensor = model.eval()(torch.tensor([tokens]))[0].float()
    return result


def check_same(expected: Tensor, found: Tensor, dtype: str, where: object) -> float:
    """The distance between the logits (T, V) of a model and of its copy in `dtype`: root mean squares, as a share.

    Raises:
        InputError: it is more than that type's rounding explains.
    """
    expected, found = (
        values - values.mean(-1, keepdim=True) for values in (expected, found)
    )  # for softmax the same
    distance = float((found - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    if not distance <= TOLERANCE[dtype]:  # NaN is not
        raise InputError(
            f"{where}: read back, it is another model: its logits are {distance:.2g} of their spread away from the "
            f"original's, expected at most {TOLERANCE[dtype]:g} for {dtype}; it was deleted"
        )
    return distance
