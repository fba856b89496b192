"""Resuming a run: from its own config and its last checkpoint."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.config.loading import flat, from_dict
from sft.config.schema import TrainConfig
from sft.errors import InputError
from sft.summaries import refuse_former_nano
from sft.training.checkpoints import read_newest

# The keys that a resumed run may change without becoming another run.
CHANGEABLE = {
    "data.licence",
    "data.path",
    "data.test",
    "data.validation",
    "epochs",
    "eval.patience",
    "max_steps",
    "device",
    "data.workers",
    "logger",
    "profile",
    "resume",
    "checkpoint.every",
    "checkpoint.minutes",
    "activation_checkpointing",
}


@dataclass(frozen=True)
class Past:
    """The state in which a run's last checkpoint left it; the defaults describe a new run.

    Attributes:
        checkpoint: the file to resume from.
        steps: the optimizer steps done.
        tracked: the run's name in each tracker that keeps one.
        made_of: the hashes of the data and the weights that the run began with.
        without_better: the number of last passes over the validation records that were no better,
            for `eval.patience`.
    """

    checkpoint: Path | None = None
    steps: int = 0
    tracked: dict[str, str] = field(default_factory=dict)
    made_of: dict[str, str] = field(default_factory=dict)
    without_better: int = 0

    def check(self, folder: Path, made_of: dict[str, str]) -> None:
        """Raise InputError if the run in `folder` began with other data or weights than now."""
        for name, sha256 in made_of.items():
            before = self.made_of[name]
            if before != sha256:
                refuse_former_nano(before, folder)
                remedy = "restore the old file"
                if name == "data":
                    remedy = "give data.path=, where the old file is now"
                raise InputError(
                    f"resume: the {name} changed since {folder} began (sha256 {before[:12]}…, now "
                    f"{sha256[:12]}…); {remedy}, or start a new run"
                )


def past_of(folder: Path) -> Past:
    """Read the past of a run; raise InputError if there is no checkpoint."""
    path, past = read_newest(folder)
    without_better = past.get("without_better", 0)
    return Past(path, past["global_step"], past["tracked"], past["made_of"], without_better)


def resumed_config(given: TrainConfig, overrides: list[str]) -> TrainConfig:
    """Return the config in the checkpoint of `given.resume`, changed by the command line.

    Raises:
        InputError: no checkpoint is whole, or a key would make it another run.
    """
    assert given.resume is not None
    saved = read_newest(Path(given.resume))[1]["config"]
    # A checkpoint of an earlier version lacks the keys that came since; they have their defaults.
    old = flat(dataclasses.asdict(from_dict(TrainConfig, saved)))
    new = flat(dataclasses.asdict(given))
    for override in overrides:
        name = override.split("=")[0].lstrip("+~")
        for key in old:
            # A group stands for its keys, and an experiment can change any key.
            is_meant = key == name or key.startswith(name + ".") or name == "experiment"
            # threads=auto is the number that the run began with.
            is_auto = key == "threads" and new[key] == "auto"
            if not is_meant or old[key] == new[key] or is_auto:
                continue
            if key not in CHANGEABLE:
                raise InputError(
                    f"{key}: {new[key]!r}, but the run at {given.resume} has {old[key]!r}; leave "
                    f"it out; a resumed run may change {', '.join(sorted(CHANGEABLE - {'resume'}))}"
                )
            old[key] = new[key]
    return from_dict(TrainConfig, _nested(old | {"resume": given.resume}))


def all_keys(config: TrainConfig) -> list[str]:
    """Every key of a config, as overrides name them."""
    return list(flat(dataclasses.asdict(config)))


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Return {"optim.lr": 1} as {"optim": {"lr": 1}}."""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        group, _, name = key.rpartition(".")
        place = nested.setdefault(group, {}) if group else nested
        place[name] = value
    return nested
