"""What a step's graph holds between its forward and its backward pass."""

import torch
from torch import Tensor

from sft.gpt2.model import GPT


def loss_and_kept(model: GPT, ids: Tensor, labels: Tensor, lengths: Tensor) -> tuple[Tensor, int]:
    """Return the summed loss of a (B, T) batch, and the bytes that its backward pass keeps.

    The parameters do not count.
    """
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.token_losses(ids, labels, lengths).sum()
    return loss, sum(kept.values())
