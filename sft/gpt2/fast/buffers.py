"""Buffers that are used again: equal to a fresh `torch.empty` at each step.

The logits of a batch, and the copy of the head in the type of its product, are the largest tensors
of a step. On a CPU, mapping fresh memory for them costs more than what is done in it.
"""

from typing import Any

from torch import Tensor

from sft.gpt2.fast.limits import LIMITS


class BufferPool:
    """Buffers that no step is using: `take` one (or a fresh one), and `give` it back."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def take(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """Return an uninitialised buffer (at least `rows`, columns), of the type of `like`."""
        for i, buffer in enumerate(self._free):
            if buffer.shape[1] != columns:
                continue
            if buffer.dtype == like.dtype and buffer.device == like.device:
                # A buffer that is too small is dropped here, so that the pool keeps the largest.
                del self._free[i]
                if len(buffer) >= rows:
                    return buffer
                break

        multiple = LIMITS[like.device.type].buffer_multiple
        return like.new_empty(-(-rows // multiple) * multiple, columns)

    def give(self, buffer: Tensor) -> None:
        """Keep a buffer for the next `take`, on devices where that pays."""
        if LIMITS[buffer.device.type].reuses_buffers:
            self._free.append(buffer)

    def __getstate__(self) -> dict[str, Any]:
        """Return an empty pool's state: copies and pickles of a model leave its buffers behind."""
        return {"_free": []}
