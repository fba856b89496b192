"""Sharded data parallel training: each rank keeps its share of the weights, the gradient and the optimizer's state.

Reference: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel" (2023); here as torch's
`fully_shard`. A layer's weights are put together when it computes, and dropped again. Shards stay inside training: a
checkpoint and `model/` hold whole tensors, as one process would write them.
"""

from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from sft.gpt2.model import GPT
from sft.gpt2.weights import skeleton


class Sharded(DDPStrategy):
    """Lightning's DDP, with the model in shards in the place of copies: what starts the processes, speaks between them
    and writes files is the same. A resumed run's weights are loaded before they are sharded."""

    def model_to_device(self) -> None:
        assert self.lightning_module is not None
        model = self.lightning_module.model
        assert isinstance(model, GPT)
        shard(model, self.root_device.type)
        super().model_to_device()  # the weights are there by now; the LightningModule notes the device

    def configure_ddp(self) -> None:
        """The model takes care of its gradient itself."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return _gathered(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return _gathered(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        for optimizer, whole_state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for number, state in whole_state["state"].items():
                state |= {name: _share(value, parameters[number]) for name, value in state.items()}
        super().load_optimizer_state_dict(checkpoint)

    def teardown(self) -> None:
        """Without a move to the CPU, where a GPU's ranks could not put the shards together any more."""
        assert self.cluster_environment is not None
        assert self.accelerator is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()


def shard(model: GPT, device: str) -> None:
    """Leave each rank its share, in place. A layer is a unit; embeddings and the last LayerNorm, needed at both ends,
    are another, which stays whole from the forward pass to the backward pass."""
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for block in model.h:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "token_losses")


def _share(value: Tensor, like: Tensor) -> Tensor:
    """This rank's share of a tensor that every rank has; a number has none."""
    if not value.dim() or not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def unsharded(tensor: Tensor) -> Tensor:
    """The tensor itself, or of a share the whole; all ranks must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _gathered(state: Mapping[str, Any]) -> dict[str, Any]:
    """With whole tensors, on the CPU of rank 0, in the place of shares; all ranks must ask, the others keep theirs."""
    first, found = dist.get_rank() == 0, dict(state)
    for name, value in state.items():
        if isinstance(value, dict):
            found[name] = _gathered(value)
        elif isinstance(value, DTensor):
            tensor = unsharded(value)
            found[name] = tensor.cpu() if first else value
    return found


def unsharded_model(model: GPT) -> GPT:
    """The model itself, or of one in shards a copy with all weights, on the CPU of rank 0; all ranks must ask, and the
    others get what is of no use."""
    if not isinstance(model, FSDPModule):
        return model
    copy = skeleton(model.config)
    copy.load_state_dict(_gathered(model.state_dict()), assign=True)
    return copy
