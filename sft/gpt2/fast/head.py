"""The head and its loss: equal to `F.cross_entropy(F.linear(x, head), targets)`.

GPT-2's vocabulary has 50,257 words, so the embedding matrix, its gradient and a batch's logits are
the largest tensors of a step: 154 MB in fp32 for the matrix of the smallest model. Five savings:

1. A tied head is the embedding matrix. The embeddings' gradient is added into the head's gradient,
   so there is no second matrix.
2. The logits are overwritten with their own gradient.
3. Only a few rows at a time are converted to fp32.
4. On the CPU, the largest buffers are reused from step to step (see `buffers.py`).
5. On the CPU, the head is multiplied a few thousand words at a time, with the same bits.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from sft.gpt2.fast.buffers import BufferPool
from sft.gpt2.fast.limits import LIMITS


class _TiedEmbedding(torch.autograd.Function):
    """Both uses of the embedding matrix, as lookup and as head, with one gradient for the two."""

    @staticmethod
    def forward(ctx: Any, matrix: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(ids)
        embeddings = F.embedding(ids, matrix)
        head = matrix.view_as(matrix)
        return embeddings, head

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_embeddings: Tensor, grad_head: Tensor) -> tuple[Tensor, None]:
        (ids,) = ctx.saved_tensors

        # `grad_head` is fresh from the head's backward pass, and nothing else holds it, so it can
        # take the sum. On CUDA index_add_ adds in any order; index_put_ gives the same bits each
        # time, which a resumed run relies on.
        if grad_head.device.type == "cuda":
            gradient = grad_head.index_put_((ids,), grad_embeddings, accumulate=True)
        else:
            gradient = grad_head.index_add_(0, ids, grad_embeddings)
        return gradient, None


class _HeadCrossEntropies(torch.autograd.Function):
    """The product with the head, and the cross entropy after it."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, head: Tensor, targets: Tensor, pool: BufferPool
    ) -> tuple[Tensor, Tensor]:
        V, C = head.shape
        ctx.dtype = head.dtype
        ctx.pool = pool

        logits_buffer = pool.take(len(x), V, like=x)
        ctx.buffers = [logits_buffer]

        # Autocast would copy the head into the type of its product; so do we, into a buffer.
        ctx.narrow = None
        if head.dtype != x.dtype:
            head_buffer = pool.take(V, C, like=x)
            ctx.buffers.append(head_buffer)
            ctx.narrow = head_buffer[:V].copy_(head)
            head = ctx.narrow

        logits = logits_buffer[: len(x)]  # (N, V)
        for words in _slices(V, LIMITS[x.device.type].head_words or V):
            torch.mm(x, head[words].t(), out=logits[:, words])
        found = []
        for rows in _slices(len(x), LIMITS[x.device.type].fp32_rows):
            found.append(_overwrite_with_gradient(logits[rows], targets[rows, None]))
        losses, hits = (torch.cat(parts) for parts in zip(*found, strict=True))

        ctx.save_for_backward(x, head, logits)
        ctx.mark_non_differentiable(hits)
        return losses, hits

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_losses: Tensor, _: Tensor
    ) -> tuple[Tensor, Tensor | None, None, None]:
        x, head, logits = ctx.saved_tensors  # the logits are their own gradient by now
        scale = grad_losses.unsqueeze(1)  # (N, 1), in fp32
        grad_x = ((logits @ head) * scale).to(x.dtype)

        # The head's narrow copy has been used for the last time, so it takes the head's gradient.
        grad_head = None
        if ctx.needs_input_grad[1]:
            grad_head = head.new_empty(head.shape) if ctx.narrow is None else ctx.narrow
            scaled = (x * scale).to(x.dtype)
            for words in _slices(len(head), LIMITS[x.device.type].head_words or len(head)):
                torch.mm(logits[:, words].t(), scaled, out=grad_head[words])
            grad_head = grad_head.to(ctx.dtype)

        ctx.narrow = None
        while ctx.buffers:
            ctx.pool.give(ctx.buffers.pop())
        return grad_x, grad_head, None, None


def _overwrite_with_gradient(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Overwrite the logits with softmax - one-hot.

    Args:
        logits: (n, V)
        targets: (n, 1)

    Returns:
        The cross entropies in fp32, and whether no word is likelier than the target, each (n,).
    """
    log_chances = logits.float().log_softmax(-1)
    of_targets = log_chances.gather(1, targets).squeeze(1)
    losses = -of_targets
    hits = of_targets == log_chances.amax(1)
    minus_one = log_chances.new_full(targets.shape, -1.0)
    logits.copy_(log_chances.exp_().scatter_add_(1, targets, minus_one))
    return losses, hits


def _slices(rows: int, size: int) -> list[slice]:
    """Return slices of `size` rows each, the last perhaps of fewer; one empty slice for none."""
    return [slice(start, min(start + size, rows)) for start in range(0, max(1, rows), size)]


def embed_tied(matrix: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the embeddings (N, C) of ids (N,), and the matrix (V, C) for use as the head.

    The gradients of both uses become one tensor, as long as the head goes into `cross_entropies`.
    """
    if not torch.is_grad_enabled():
        return F.embedding(ids, matrix), matrix
    embeddings, head = _TiedEmbedding.apply(matrix, ids)  # type: ignore[no-untyped-call]
    return embeddings, head


def overwrites_logits(x: Tensor, head: Tensor) -> bool:
    """Return whether `cross_entropies` applies: there is a gradient, and it is not in fp16.

    In fp16, softmax - one-hot underflows before it is multiplied by the loss scale.
    """
    return torch.is_grad_enabled() and _product_dtype(x, head) != torch.float16


def cross_entropies(
    x: Tensor, head: Tensor, targets: Tensor, pool: BufferPool
) -> tuple[Tensor, Tensor]:
    """Return each target's cross entropy, and whether no word is likelier than it, both (N,).

    Args:
        x: (N, C) hidden states.
        head: (V, C)
    """
    x = x.to(_product_dtype(x, head))
    return _HeadCrossEntropies.apply(x, head, targets, pool)  # type: ignore[no-any-return, no-untyped-call]


def _product_dtype(x: Tensor, head: Tensor) -> torch.dtype:
    """Return the type in which x is multiplied by the head: autocast's, or the head's own."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return head.dtype


def loss_slices(x: Tensor) -> list[slice]:
    """Return the rows of x that have logits at the same time in the plain loss.

    Without a gradient, logits are dropped as soon as their loss is known, so a few rows at a time
    do. With one, the graph keeps all of them anyway.
    """
    if torch.is_grad_enabled():
        return [slice(len(x))]
    return _slices(len(x), LIMITS[x.device.type].evaluated_rows)
