"""An average of the weights along the training, corrected for its lag (BEMA).

Source: Block and Zhang, "EMA Without the Lag: Bias-Corrected Iterate Averaging Schemes"
(2508.00180). With small batches the weights swing around their course. An average swings less, but
lags behind; the correction moves it on by a share of the whole way from the first weights.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

# The paper's rho and eta: the correction's share after t steps is (LAG + t) ** -POWER.
LAG = 10
POWER = 0.2


class Average:
    """The running average of a model's trained weights.

    With the weights theta_t after step t, the average is
    `(LAG + t) ** -POWER * (theta_t - theta_0) + ema_t`, where ema_0 = theta_0 and
    `ema_t = decay * ema_(t-1) + (1 - decay) * theta_t`. The paper lowers the decay with t; here it
    is a constant that the user gives.

    Args:
        model: its present weights are theta_0.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        named = [(name, one) for name, one in model.named_parameters() if one.requires_grad]
        self.names = [name for name, _ in named]
        self.weights: list[Tensor] = [parameter for _, parameter in named]
        self.decay = decay
        self.steps = 0
        self._first = [weight.detach().clone() for weight in self.weights]
        self._ema = [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after one more optimizer step."""
        self.steps += 1

        # The model may have moved to a device since.
        device = self.weights[0].device
        if self._ema[0].device != device:
            self._ema = [tensor.to(device) for tensor in self._ema]
            self._first = [tensor.to(device) for tensor in self._first]
        torch._foreach_lerp_(self._ema, self.weights, 1 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the averaged weights, and then its own ones back, bit for bit."""
        if not self.steps:
            yield
            return

        # Within Lightning's validation, tensors made here would be bound to inference mode.
        with torch.inference_mode(False), torch.no_grad():
            own = [weight.detach().clone() for weight in self.weights]
            share = (LAG + self.steps) ** -POWER
            for weight, first, ema in zip(self.weights, self._first, self._ema, strict=True):
                weight.sub_(first).mul_(share).add_(ema)
        try:
            yield
        finally:
            with torch.inference_mode(False), torch.no_grad():
                for weight, before in zip(self.weights, own, strict=True):
                    weight.copy_(before)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs; theta_0 is in the checkpoint that the run began with."""
        return {"steps": self.steps, "ema": dict(zip(self.names, self._ema, strict=True))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        found: dict[str, Tensor] = state["ema"]
        for name, tensor in zip(self.names, self._ema, strict=True):
            tensor.copy_(found[name])
