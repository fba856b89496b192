"""Lightning calls a run's callbacks in an order that the run depends on."""

from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from sft.config.schema import TrainConfig
from sft.training.interruption import Interruption
from sft.training.memory import EnoughMemory
from sft.training.metrics import Metrics
from sft.training.mps import EmptyCache
from sft.training.order import ORDER, in_order
from sft.training.profile import Profile
from sft.training.progress import Progress
from sft.training.run_folder import RunFolder
from sft.training.samples import SampleAnswer
from sft.training.sanity import SanityGate
from sft.training.trackers import Tracking

Config = Callable[..., TrainConfig]
Run = Callable[..., Path]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Interruption, SanityGate),
        (Interruption, Metrics),
        (EnoughMemory, SanityGate),
        (EnoughMemory, Metrics),
        (SanityGate, Metrics),
        (SanityGate, RunFolder),
        (Metrics, RunFolder),
        (Metrics, Tracking),
        (RunFolder, Tracking),
        (RunFolder, SampleAnswer),
        (SampleAnswer, EmptyCache),
    ],
)
def test_a_callback_comes_before_the_one_that_depends_on_it(
    first: type[Callback], second: type[Callback]
) -> None:
    assert ORDER.index(first) < ORDER.index(second)


def test_the_order_of_the_list_does_not_matter() -> None:
    callbacks: list[Callback] = [EmptyCache(), EnoughMemory(), Interruption(), Progress()]
    for given in permutations(callbacks):
        kinds = [type(callback) for callback in in_order(given)]
        assert kinds == [Interruption, Progress, EnoughMemory, EmptyCache]


def test_lightning_calls_a_runs_callbacks_in_this_order(
    config: Config, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[type[Callback]] = []
    honest = Trainer.fit

    def fit(self: Trainer, *arguments: Any, **options: Any) -> None:
        called.extend(type(callback) for callback in self.callbacks)
        honest(self, *arguments, **options)

    monkeypatch.setattr(Trainer, "fit", fit)
    run(config(max_steps=1, eval__sample=True))
    assert called == [kind for kind in ORDER if kind not in (EmptyCache, Profile)]
