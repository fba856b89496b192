"""The loss over a vocabulary of 50,257, with as few tensors of that size as there can be.

The token embedding has two uses, for the tokens that are read and as the head, each with a gradient as large as the
matrix: 154 MB for the smallest GPT-2. A batch's logits, in the type of the products and in fp32, take as much again.
Here the gradient of the tokens read is added to the rows of the head's, the logits become their own gradient, fp32 is
for some rows at a time, and on the CPU, where fresh memory costs more than what is done with it, the largest tensors
are kept from one step to the next.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# Rows that are turned into fp32 at a time: 3 MB on a CPU, which its cache holds; and, where no gradient is wanted, rows
# that have logits at all at a time.
ROWS = {"cpu": 16, "cuda": 1024, "mps": 1024}
UNLEARNED = {"cpu": 128, "cuda": 1024, "mps": 1024}


class Kept:
    """Memory that is used again: `take` it, or have it allocated, and `give` it back."""

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def take(self, rows: int, columns: int, like: Tensor) -> Tensor:
        """(at least so many rows, columns), not initialised, in the type and on the device of `like`."""
        for i, memory in enumerate(self._free):
            if (memory.dtype, memory.device, memory.shape[1]) == (like.dtype, like.device, columns):
                self._free.pop(i)  # for good, if it is too small
                if len(memory) >= rows:
                    return memory
                break
        return like.new_empty(-(-rows // 256) * 256, columns)

    def give(self, memory: Tensor) -> None:
        if memory.device.type == "cpu":
            self._free.append(memory)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles of the model begin without this memory."""
        return {"_free": []}


class _Tied(torch.autograd.Function):
    """Two uses of one matrix, some of its rows and all of it, whose gradients come as one."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids)
        return F.embedding(ids, matrix), matrix.view_as(matrix)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_rows: Tensor, grad_matrix: Tensor) -> tuple[Tensor, None]:
        (ids,) = ctx.saved_tensors  # and `grad_matrix` is the head's gradient, which nobody else holds
        if grad_matrix.device.type == "cuda":  # in the same order each time, as index_add_ is not there
            return grad_matrix.index_put_((ids,), grad_rows, accumulate=True), None
        return grad_matrix.index_add_(0, ids, grad_rows), None


class _CrossEntropies(torch.autograd.Function):
    """The head, and the cross entropy behind it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, matrix: Tensor, targets: Tensor, kept: Kept) -> Tensor:
        V, C = matrix.shape
        ctx.kept, ctx.dtype = kept, matrix.dtype
        ctx.taken, ctx.narrow = [kept.take(len(x), V, like=x)], None
        if matrix.dtype != x.dtype:
            ctx.taken.append(kept.take(V, C, like=x))
            ctx.narrow = ctx.taken[1][:V].copy_(matrix)
        head = matrix if ctx.narrow is None else ctx.narrow
        logits = torch.mm(x, head.t(), out=ctx.taken[0][: len(x)])
        losses = [_into_gradient(logits[rows], targets[rows, None]) for rows in _parts(x, ROWS[x.device.type])]
        ctx.save_for_backward(x, head, logits)
        return torch.cat(losses)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_losses: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x, head, logits = ctx.saved_tensors
        scale, grad_matrix = grad_losses.unsqueeze(1), None  # (N, 1), in fp32
        grad_x = ((logits @ head) * scale).to(x.dtype)
        if ctx.needs_input_grad[1]:  # its narrow copy is not needed any more, and takes the gradient
            grad_matrix = torch.mm(logits.t(), (x * scale).to(x.dtype), out=ctx.narrow).to(ctx.dtype)
        ctx.narrow = None
        while ctx.taken:
            ctx.kept.give(ctx.taken.pop())
        return grad_x, grad_matrix, None, None


def _parts(x: Tensor, size: int) -> list[slice]:
    """Slices of `size` rows of x, (N, ...); an empty one if there are none."""
    return [slice(start, start + size) for start in range(0, max(1, len(x)), size)]


def _into_gradient(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropies, (n, V) and (n, 1) to (n,), in fp32; the logits become softmax minus target."""
    logs = logits.float().log_softmax(-1)
    losses = -logs.gather(1, targets).squeeze(1)
    logits.copy_(logs.exp_().scatter_add_(1, targets, logs.new_full(targets.shape, -1.0)))
    return losses


def tied(matrix: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The embeddings (N, C) of ids (N,), and the matrix (V, C) again; of both uses comes one gradient."""
    if not torch.is_grad_enabled():
        return F.embedding(ids, matrix), matrix
    rows, whole = _Tied.apply(matrix, ids)  # type: ignore[no-untyped-call]
    return rows, whole


def cross_entropies(x: Tensor, matrix: Tensor, targets: Tensor, kept: Kept) -> Tensor:
    """Of targets (N,), in nats and fp32, (N,), for hidden states (N, C) and the head's matrix (V, C)."""
    device, learns = x.device.type, torch.is_grad_enabled()
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else matrix.dtype
    if learns and dtype != torch.float16:  # too narrow for a softmax that is not yet multiplied by the loss scale
        return _CrossEntropies.apply(x.to(dtype), matrix, targets, kept)  # type: ignore[no-any-return, no-untyped-call]
    parts = _parts(x, max(1, len(x)) if learns else UNLEARNED[device])
    return torch.cat([F.cross_entropy(F.linear(x[p], matrix).float(), targets[p], reduction="none") for p in parts])
