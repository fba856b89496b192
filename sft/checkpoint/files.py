"""The files of a checkpoint's folder: their names, and how their JSON is read and written."""

import json
from pathlib import Path
from typing import Any

from sft.atomic import read_json
from sft.errors import InputError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
GENERATION_CONFIG = "generation_config.json"
CARD = "README.md"

# An adapter's folder has these instead of a model's config and weights.
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"


def write_config(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file of a checkpoint.

    Its bytes are ASCII, unlike those that `write_json` in `sft/atomic.py` writes. It is not written
    whole or not at all: its folder is.
    """
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def shards(index: Path) -> list[str]:
    """Return the names of the weight files in a sharded checkpoint's index.

    Raises:
        InputError: the index names no file, or one that is not in its own folder.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise InputError(
            f"{index}: expected JSON with a `weight_map` of tensors and files, found {weight_map!r}"
        )
    if not weight_map:
        raise InputError(f"{index}: its `weight_map` names no file")
    for name in weight_map.values():
        is_plain = isinstance(name, str) and Path(name).name == name
        if not is_plain or not name.endswith(".safetensors"):
            raise InputError(f"{index}: {name!r} is not the name of a .safetensors file beside it")
    return sorted(set(weight_map.values()))
