"""Sharded training: each rank keeps its share of weights, gradient and optimizer state.

Reference: Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel" (2023);
here as torch's `fully_shard`. A layer's weights are gathered when it computes, and dropped again.
Shards stay inside training: a checkpoint and `model/` hold whole tensors, as one process would
write them.
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

from sft.checkpoint.weights import skeleton
from sft.gpt2.model import GPT


class Sharded(DDPStrategy):
    """Lightning's DDP with a sharded model.

    Processes are started, talk to each other and write files as in DDP. A resumed run's weights
    are loaded before they are sharded.
    """

    def model_to_device(self) -> None:
        assert self.lightning_module is not None
        model = self.lightning_module.model
        assert isinstance(model, GPT)
        shard(model, self.root_device.type)

        # The weights are on the device by now. This has the LightningModule note it.
        super().model_to_device()

    def configure_ddp(self) -> None:
        """Do nothing: a sharded model reduces its gradient itself."""

    def lightning_module_state_dict(self) -> dict[str, Any]:
        return _gathered(super().lightning_module_state_dict())

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        return _gathered(super().optimizer_state(optimizer))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        whole_states = checkpoint["optimizer_states"]
        for optimizer, whole_state in zip(self.optimizers, whole_states, strict=True):
            parameters = [p for group in optimizer.param_groups for p in group["params"]]
            for number, state in whole_state["state"].items():
                state |= {name: _share(value, parameters[number]) for name, value in state.items()}
        super().load_optimizer_state_dict(checkpoint)

    def teardown(self) -> None:
        """Tear down without DDP's move to the CPU, where shards of a GPU could not be gathered."""
        assert self.cluster_environment is not None
        assert self.accelerator is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()


def shard(model: GPT, device: str) -> None:
    """Leave each rank its share, in place.

    Each layer is a unit. Embeddings and the last LayerNorm are another; since they are needed at
    both ends, it stays gathered from the forward pass to the backward pass.
    """
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for block in model.h:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    register_fsdp_forward_method(model, "token_losses")
    register_fsdp_forward_method(model, "token_scores")


def _share(value: Tensor, like: Tensor) -> Tensor:
    """Return this rank's share of a tensor that every rank has; a number has none."""
    if not value.dim() or not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def unsharded(tensor: Tensor) -> Tensor:
    """Gather a sharded tensor; another is returned as is. Collective."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _gathered(state: Mapping[str, Any]) -> dict[str, Any]:
    """Gather the sharded tensors of a state on rank 0's CPU. Collective; others keep shards."""
    is_first = dist.get_rank() == 0
    found = dict(state)
    for name, value in state.items():
        if isinstance(value, dict):
            found[name] = _gathered(value)
        elif isinstance(value, DTensor):
            tensor = unsharded(value)
            found[name] = tensor.cpu() if is_first else value
    return found


def unsharded_model(model: GPT) -> GPT:
    """Gather a sharded model's weights on rank 0's CPU; an unsharded model is returned as is.

    Collective: every rank must call it, and only rank 0 may use the result.
    """
    if not isinstance(model, FSDPModule):
        return model
    copy = skeleton(model.config)
    copy.load_state_dict(_gathered(model.state_dict()), assign=True)
    return copy
