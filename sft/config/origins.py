"""The origin of each setting that is not the default of `conf/train.yaml`."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from sft.config.loading import flat
from sft.config.rules import given_keys
from sft.config.schema import DataConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig

# The groups whose files set keys. The first that sets a key wins: this is the defaults list of
# conf/train.yaml from its end.
GROUPS = ("experiment", "lora", "judge", "recipe", "model", "data")


def changed_settings(config: TrainConfig, hydra: Any) -> str:
    """Return the settings that are not the documented defaults, one source in each line.

    Args:
        config: the settings in force; of a resumed run those it began with.
        hydra: Hydra's own config, which knows the command line and the chosen groups.
    """
    default = TrainConfig(ModelConfig(""), DataConfig(), OptimConfig(), EvalConfig())
    values = flat(dataclasses.asdict(config))
    defaults = flat(dataclasses.asdict(default)) | {"resume": config.resume}
    changed = {key: value for key, value in values.items() if value != defaults[key]}

    by_source: dict[str, list[str]] = {}
    sources = _sources(config, hydra)
    for key, value in changed.items():
        source = next((name for name, keys in sources if key in keys), "conf/")
        by_source.setdefault(source, []).append(f"{key}={_text(value)}")
    lines = [f"  {source}: {', '.join(settings)}" for source, settings in by_source.items()]
    return "\n".join(
        ["settings that are not the defaults of conf/, by where they come from:", *lines]
    )


def _sources(config: TrainConfig, hydra: Any) -> list[tuple[str, Iterable[str]]]:
    """Return the keys that each source sets, with the source that wins first in the list."""
    found: list[tuple[str, Iterable[str]]] = [("command line", given_keys(hydra.overrides.task))]
    if config.resume is not None:
        everything = flat(dataclasses.asdict(config))
        return [*found, (f"the resumed run {config.resume}", everything)]

    [conf] = [source.path for source in hydra.runtime.config_sources if source.provider == "main"]
    choices = hydra.runtime.choices
    for group in GROUPS:
        choice = choices.get(group)
        path = Path(conf) / group / f"{choice}.yaml"

        # Nothing was chosen, or the data set has no recipe.
        if choice is None or not path.exists():
            continue
        name = f"data={choice}" if group == "recipe" else f"{group}={choice}"
        found.append((name, _keys_of(path, group)))
    return found


def _keys_of(path: Path, group: str) -> set[str]:
    """Return the keys that a file of a group sets, as they are called on the command line."""
    values: Any = OmegaConf.to_container(OmegaConf.load(path))
    values.pop("defaults", None)
    whole = path.read_text(encoding="utf-8").startswith("# @package _global_")
    return set(flat(values, "" if whole else f"{group}."))


def _text(value: Any) -> str:
    """Return a value as it is written on the command line."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return str(value)
