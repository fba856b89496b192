"""Going on with a run: its own config and its last checkpoint."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.config import InputError, TrainConfig
from sft.merge import from_dict
from sft.training.checkpoints import read_newest

CHANGEABLE = {"data.path", "epochs", "max_steps", "device", "data.workers", "logger", "resume"}
CHANGEABLE |= {"checkpoint.every", "checkpoint.minutes", "activation_checkpointing"}


@dataclass(frozen=True)
class Past:
    """What a run's last checkpoint knows of the run, beside its state; the defaults are those of a new run."""

    checkpoint: Path | None = None  # to go on from
    steps: int = 0  # of the optimizer
    tracked: dict[str, str] = field(default_factory=dict)  # the run's name in each tracker that keeps one
    made_of: dict[str, str] = field(default_factory=dict)  # hashes of the data and the weights that it began with

    def check(self, folder: Path, made_of: dict[str, str]) -> None:
        """Raise InputError if the run in a folder began with other data or weights than there are now."""
        for name, sha256 in made_of.items():
            if self.made_of[name] != sha256:
                remedy = "give data.path=, where the old file is now" if name == "data" else "bring the old file back"
                raise InputError(
                    f"resume: the {name} changed since {folder} began (sha256 {self.made_of[name][:12]}…, now "
                    f"{sha256[:12]}…); {remedy}, or start a new run"
                )


def past_of(folder: Path) -> Past:
    """Return the past of a run; raises InputError if there is no checkpoint."""
    path, past = read_newest(folder)
    return Past(path, past["global_step"], past["tracked"], past["made_of"])


def resumed_config(given: TrainConfig, overrides: list[str]) -> TrainConfig:
    """The config kept in the checkpoint of the run `given.resume`, with what may change taken from the command line.

    Raises:
        InputError: no checkpoint, or an override that would make it another run, by key.
    """
    assert given.resume is not None
    saved = read_newest(Path(given.resume))[1]["config"]
    old, new = _flat(saved), _flat(dataclasses.asdict(given))
    for override in overrides:
        name = override.split("=")[0].lstrip("+~")
        for key in old:
            named = key == name or key.startswith(name + ".") or name == "experiment"
            if not named or old[key] == new[key]:
                continue
            if key not in CHANGEABLE:
                raise InputError(
                    f"{key}: {new[key]!r}, but the run at {given.resume} has {old[key]!r}; a resumed run may change "
                    f"{', '.join(sorted(CHANGEABLE - {'resume'}))}"
                )
            old[key] = new[key]
    return from_dict(TrainConfig, _nested(old | {"resume": given.resume}))


def all_keys(config: TrainConfig) -> list[str]:
    """Every key of a config, as overrides name them."""
    return list(_flat(dataclasses.asdict(config)))


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": item for name, item in value.items()}
        else:
            flat[key] = value
    return flat


def _nested(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        group, _, name = key.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[name] = value
    return nested
