"""The settings in `--help`: each key with its value here and its comment in `conf/`.

The help templates in `conf/train.yaml` and `conf/evaluate.yaml` call the resolver `settings`, which
returns them.
"""

import re
import textwrap
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from sft.metrics import BY_NAME

# Files that describe a group of keys, of whichever door.
GROUPS = ("data", "judge", "lora")

# The words of a comment that stand for the names of all metrics.
A_METRIC = "a metric of sft/metrics.py"

# Columns of the text: where comments begin, and where they end.
COLUMN = 30
WIDTH = 98


def comments(path: Path) -> dict[str, str]:
    """Return the comment of each key of a file in `conf/`, up to Hydra's own part.

    A comment begins at the end of its key's line. It may continue on the lines below, which hold
    nothing but a comment that is indented further than any key.
    """
    text = path.read_text(encoding="utf-8").partition("\nhydra:")[0]
    found: dict[str, str] = {}
    group = ""
    key = ""
    for line in text.splitlines():
        if match := re.match(r"( *)(\w+):(.*)", line):
            indent, name, rest = match.groups()
            value, _, comment = rest.partition(" # ")
            group = group if indent else ""
            key = group + name
            if not value.strip():
                group = f"{name}."
            if comment:
                found[key] = comment.strip()
        elif key in found and (more := re.match(r" {8,}# ?(.*)", line)):
            found[key] += f" {more[1].strip()}"
        else:
            key = ""
    return found


def all_comments(conf: Path, door: str) -> dict[str, str]:
    """Return the comments of all keys of a door, `train` or `evaluate`."""
    found = comments(conf / f"{door}.yaml")
    for group in GROUPS:
        in_group = comments(conf / f"{group}.yaml")
        found |= {f"{group}.{key}": comment for key, comment in in_group.items()}
    names = " | ".join(BY_NAME)
    return {key: comment.replace(A_METRIC, names) for key, comment in found.items()}


def settings_text(values: dict[str, Any], known: dict[str, str], where: str = "") -> str:
    """Return a line for each key: `  lr: 5e-05    # the highest learning rate`."""
    lines = []
    indent = "  " * (1 + where.count("."))
    for name, value in values.items():
        key = where + name
        head = f"{indent}{name}:"
        if isinstance(value, list):
            head += f" [{', '.join(map(str, value))}]"
        elif not isinstance(value, dict):
            # Text, numbers, true and null, written as YAML writes them.
            head += OmegaConf.to_yaml(OmegaConf.create([value])).strip().removeprefix("-")

        # Later lines of a comment begin below its first, not below the key.
        lines += textwrap.wrap(
            known.get(key, ""),
            WIDTH,
            initial_indent=f"{head:<{COLUMN}}  # ",
            subsequent_indent=f"{'':<{COLUMN}}  # ",
            break_on_hyphens=False,
        ) or [head]
        if isinstance(value, dict):
            lines.append(settings_text(value, known, f"{key}."))
    return "\n".join(lines)


def settings(door: str, *, _root_: DictConfig) -> str:
    """Return the text that the resolver puts into the help of a door."""
    root: Any = _root_
    [conf] = [found.path for found in root.hydra.runtime.config_sources if found.provider == "main"]
    settings_alone = OmegaConf.masked_copy(_root_, [key for key in root if key != "hydra"])
    values: Any = OmegaConf.to_container(settings_alone)
    text = settings_text(values, all_comments(Path(conf), door))

    # Hydra takes the text for a string.Template.
    return text.replace("$", "$$")


OmegaConf.register_new_resolver("settings", settings)
