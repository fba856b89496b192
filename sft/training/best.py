"""The best weights of a run so far, and whether the run should go on."""

import math
from typing import Any

from sft.config.schema import EvalConfig
from sft.metrics import BY_NAME


class Best:
    """Compares each pass over the validation records with the best one before it.

    What counts is the number that `eval.best` names. With `optim.ema` the averaged weights are
    compared by the same number. All ranks see the same numbers, so they agree.

    Attributes:
        value: the best number so far, negated if higher is better; infinity before the first.
        lowest_loss: the lowest loss over the whole validation split, in nats; infinity before the
            first.
        without_better: passes since the best one.
        unsaved: which weights are better than those in `model/`: `plain` or `averaged`; None:
            neither.
    """

    def __init__(self, config: EvalConfig) -> None:
        self.metric = config.best
        self.patience = config.patience
        self.value = float("inf")
        self.lowest_loss = float("inf")
        self.without_better = 0
        self.unsaved: str | None = None

    @property
    def exhausted(self) -> bool:
        """Whether `eval.patience` passes in a row were no better."""
        return is_exhausted(self.without_better, self.patience)

    def see_losses(self, plain: float, averaged: float) -> None:
        """Take in the losses of a pass over the whole validation split; NaN: not taken."""
        for loss in (plain, averaged):
            if loss < self.lowest_loss:
                self.lowest_loss = loss
        if self.metric == "validation_loss":
            self._see(plain, averaged)

    def see_scores(self, plain: dict[str, float], averaged: dict[str, float]) -> None:
        """Take in the means of answers, by metric; empty: not taken."""
        if self.metric != "validation_loss":
            sign = 1 if BY_NAME[self.metric].lower_is_better else -1
            numbers = [sign * one.get(self.metric, math.nan) for one in (plain, averaged)]
            self._see(*numbers)

    def _see(self, plain: float, averaged: float) -> None:
        self.without_better += 1
        for name, number in (("plain", plain), ("averaged", averaged)):
            if number < self.value:
                self.value = number
                self.unsaved = name
                self.without_better = 0

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.value,
            "lowest_loss": self.lowest_loss,
            "without_better": self.without_better,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state of a checkpoint. An earlier version kept the best loss alone."""
        self.value = state["best"]
        self.lowest_loss = state.get("lowest_loss", self.value)
        self.without_better = state.get("without_better", 0)


def is_exhausted(without_better: int, patience: int | None) -> bool:
    """Return whether this number of passes without a better one ends the run."""
    return patience is not None and without_better >= patience
