"""Adapters as files, in the format of PEFT (https://huggingface.co/docs/peft, "PEFT checkpoint format").

    adapter_config.json  adapter_model.safetensors

A folder of these two holds no model: it names the base that it was trained beside, and what is added to its matrices.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from sft.checkpoint import weights
from sft.checkpoint.hub import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from sft.config.schema import LoraConfig
from sft.errors import InputError
from sft.gpt2.lora import is_adapter
from sft.gpt2.model import GPT, GPTConfig

PREFIX = "base_model.model."  # before the names of transformers' GPT2LMHeadModel

# Keys of adapter_config.json. What is in neither, and asks for something, adds more than the product of two matrices.
READ = {
    "peft_type",
    "base_model_name_or_path",
    "revision",
    "r",
    "lora_alpha",
    "target_modules",
    "use_rslora",
}
UNREAD = {
    "task_type",
    "auto_mapping",
    "peft_version",
    "inference_mode",
    "lora_dropout",
    "fan_in_fan_out",
}
UNREAD |= {
    "megatron_core",
    "qalora_group_size",
    "eva_config",
}  # of training, or of what is not asked for
STARTS = (
    True,
    False,
    "gaussian",
    "orthogonal",
    "eva",
    "mica",
)  # init_lora_weights that leave the base as it is


@dataclass(frozen=True)
class AdapterConfig:
    """What an `adapter_config.json` says."""

    path: Path
    base: str  # a folder, or a repository of the hub
    revision: str | None
    rank: int
    scale: float
    targets: list[str]  # the layers, by the ends of their names


@dataclass(frozen=True)
class Adapter:
    """A (r, in) and B (out, r) of each adapted layer, by its name, and the factor before B A."""

    pairs: dict[str, tuple[Tensor, Tensor]]
    scale: float
    sha256: str  # of all that it makes: of the base, and of the adapter's two files

    def added(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of the base, with what the adapter adds to it; the sum is in fp32."""
        layer, _, kind = name.rpartition(".")
        if kind != "weight" or layer not in self.pairs:
            return tensor
        A, B = self.pairs[layer]
        return tensor + self.scale * (B.float() @ A.float())  # (out, in)


def write_adapter(
    model: GPT, config: LoraConfig, folder: Path, base: str, revision: str | None, sha256: str
) -> None:
    """Write the two files of a model that `add_lora` gave its adapters.

    Args:
        base, revision, sha256: where the model's weights come from, and their hash.
    """
    tensors = {
        _key(name): tensor.detach() for name, tensor in model.named_parameters() if is_adapter(name)
    }
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    weights.write(
        shapes, tensors.values(), folder / ADAPTER_WEIGHTS, torch.float32, base_sha256=sha256
    )
    content = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if config.alpha.is_integer() else config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": config.targets,
        "fan_in_fan_out": True,  # transformers keeps GPT-2's matrices as (in, out)
        "bias": "none",
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _key(name: str) -> str:
    """h.0.attn.c_attn.lora_A -> base_model.model.transformer.h.0.attn.c_attn.lora_A.weight"""
    return f"{PREFIX}{weights.PREFIX}{name}.weight"


def read_adapter_config(path: Path, content: dict[str, Any]) -> AdapterConfig:
    """Check a parsed `adapter_config.json`.

    Raises:
        InputError: a key is missing or of the wrong kind, or asks for more than is implemented; by key.
    """
    if content.get("peft_type") != "LORA":
        raise InputError(
            f"{path}: peft_type: {content.get('peft_type')!r} is not implemented, expected 'LORA'"
        )
    for key, value in content.items():
        plain = (
            value in STARTS
            if key == "init_lora_weights"
            else value in (None, False, {}, [], "none")
        )
        if not plain and key not in READ | UNREAD:
            raise InputError(f"{path}: {key}: {value!r} is not implemented")
    rank, alpha = content.get("r"), content.get("lora_alpha")
    base, revision = content.get("base_model_name_or_path"), content.get("revision")
    targets = content.get("target_modules")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        raise InputError(f"{path}: r: expected a whole number from 1 up, found {rank!r}")
    if (
        not isinstance(alpha, int | float)
        or isinstance(alpha, bool)
        or not 0 < alpha < float("inf")
    ):
        raise InputError(f"{path}: lora_alpha: expected a number above 0, found {alpha!r}")
    if not isinstance(targets, list) or not all(isinstance(name, str) for name in targets):
        raise InputError(
            f"{path}: target_modules: expected a list of layers' names, found {targets!r}"
        )
    if not isinstance(base, str):
        raise InputError(
            f"{path}: base_model_name_or_path: expected the base's name, found {base!r}"
        )
    if not isinstance(revision, str | None):
        raise InputError(
            f"{path}: revision: expected a commit, a tag or a branch, found {revision!r}"
        )
    scale = alpha / (rank**0.5 if content.get("use_rslora") else rank)
    return AdapterConfig(path, base, revision, rank, scale, targets)


def read_adapter(config: AdapterConfig, base: GPTConfig, base_sha256: str) -> Adapter:
    """The matrices beside an `adapter_config.json`.

    Raises:
        InputError: the file is missing or damaged, its tensors are not those that config and base ask for, or it was
            trained beside other weights than the base has now.
    """
    path = config.path.with_name(ADAPTER_WEIGHTS)
    if not path.is_file():
        raise InputError(
            f"{path}: no such file, but {ADAPTER_CONFIG} stands there; pickled weights are not loaded"
        )
    stored = {
        key.removeprefix(PREFIX).removeprefix(weights.PREFIX): it
        for key, it in weights.headers([path]).items()
    }
    layers = _layers(config, base)
    names = {layer: (f"{layer}.lora_A.weight", f"{layer}.lora_B.weight") for layer in layers}
    expected: dict[str, tuple[int, ...]] = {}
    for layer, (out, width) in layers.items():
        expected |= dict(zip(names[layer], ((config.rank, width), (out, config.rank)), strict=True))
    weights.check(stored, expected, path)
    with safe_open(path, framework="pt") as file:
        trained_beside = (file.metadata() or {}).get("base_sha256", base_sha256)
    if trained_beside != base_sha256:
        raise InputError(
            f"{path}: was trained beside other weights than {config.base} has now (sha256 {trained_beside[:12]}…, now "
            f"{base_sha256[:12]}…); bring these back"
        )
    pairs = {layer: (stored[A].read(), stored[B].read()) for layer, (A, B) in names.items()}
    sha256 = hashlib.sha256(
        f"{base_sha256} {weights.sha256([config.path, path])}".encode()
    ).hexdigest()
    return Adapter(pairs, config.scale, sha256)


def _layers(config: AdapterConfig, base: GPTConfig) -> dict[str, tuple[int, int]]:
    """The linear layers that the config means, and their (out, in)."""
    found = {}
    for name, tensor in weights.skeleton(base).state_dict().items():
        layer = name.removesuffix(".weight")
        full = f".{weights.PREFIX}{layer}"
        if weights.CONV1D.fullmatch(name) and any(
            full.endswith(f".{target}") for target in config.targets
        ):
            out, width = tensor.shape
            found[layer] = (out, width)
    return found
