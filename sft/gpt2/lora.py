"""LoRA: a frozen model is tuned through low-rank matrices added to its linear layers.

Reference: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (2021), section 4.1. A
layer's W x becomes W x + alpha / r * B A x. A is (r, in) and drawn at random; B is (out, r) and
starts at 0, so a new adapter changes nothing.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sft.config.schema import LoraConfig
from sft.gpt2.model import GPT


class LoraLinear(nn.Module):
    """A linear layer with an adapter.

    The layer's own parameters keep their names and type. The adapter's are in fp32, as an optimizer
    needs them.
    """

    def __init__(self, linear: nn.Linear, config: LoraConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.lora_A = nn.Parameter(torch.empty(config.rank, linear.in_features))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, config.rank))
        self.dropout = nn.Dropout(config.dropout)
        self.scale = config.alpha / config.rank
        # As the authors' code draws it.
        nn.init.kaiming_uniform_(self.lora_A, a=5**0.5, generator=generator)

    def forward(self, x: Tensor) -> Tensor:  # (N, in) -> (N, out)
        low = F.linear(self.dropout(x), self.lora_A)  # (N, r)
        return F.linear(x, self.weight, self.bias) + self.scale * F.linear(low, self.lora_B)


def merged(model: GPT) -> GPT:
    """Return a copy of a model whose adapters are part of its matrices.

    What no adapter changes is shared with the model.
    """
    state = {
        name: tensor.detach() for name, tensor in model.state_dict().items() if not is_adapter(name)
    }
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLinear):
            added = layer.scale * (layer.lora_B.float() @ layer.lora_A.float())  # (out, in)
            weight = state[f"{name}.weight"]
            state[f"{name}.weight"] = (weight + added.detach()).to(weight.dtype)
    with torch.device("meta"):
        copy = GPT(model.config)
    copy.load_state_dict(state, assign=True)
    return copy.train(model.training)


def is_adapter(name: str) -> bool:
    """Return whether the parameter of this name belongs to an adapter."""
    return name.endswith((".lora_A", ".lora_B"))


def add_lora(model: GPT, config: LoraConfig, seed: int = 0) -> None:
    """Freeze a model on the CPU and add adapters to its target layers, in place.

    The model's logits do not change.

    Args:
        seed: of the matrices A.
    """
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear) and name in config.targets:
                setattr(parent, name, LoraLinear(layer, config, generator))
