"""LoRA adapters as files, in PEFT's format.

    adapter_config.json  adapter_model.safetensors

Format: https://huggingface.co/docs/peft, "PEFT checkpoint format". A folder of these two holds no
model. It names the base that the adapter was trained on, and what is added to the base's matrices.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from sft.checkpoint import weights
from sft.checkpoint.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, write_config
from sft.config.schema import LoraConfig
from sft.errors import InputError
from sft.gpt2.lora import is_adapter
from sft.gpt2.model import GPT, GPTConfig

# PEFT puts this before the tensor names of transformers' GPT2LMHeadModel.
PREFIX = "base_model.model."

# Keys of adapter_config.json that are read, and keys that change nothing once training is over. Any
# other key that is switched on makes an adapter that is more than a product of two matrices.
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
    "megatron_core",
    "qalora_group_size",
    "eva_config",
}

# Values of init_lora_weights that leave the base as it is.
STARTS = (True, False, "gaussian", "orthogonal", "eva", "mica")


@dataclass(frozen=True)
class AdapterConfig:
    """Content of an `adapter_config.json`.

    Attributes:
        base: a folder, or a repository of the hub.
        scale: factor of the product of A and B.
        targets: the adapted layers, by the ends of their names.
    """

    path: Path
    base: str
    revision: str | None
    rank: int
    scale: float
    targets: list[str]


@dataclass(frozen=True)
class Adapter:
    """An adapter's matrices.

    Attributes:
        pairs: A (r, in) and B (out, r), by the name of the layer.
        scale: factor of B A.
        sha256: hash of the base and of the adapter's two files.
    """

    pairs: dict[str, tuple[Tensor, Tensor]]
    scale: float
    sha256: str

    def added(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor of the base, plus what the adapter adds to it, computed in fp32."""
        layer, _, kind = name.rpartition(".")
        if kind != "weight" or layer not in self.pairs:
            return tensor
        A, B = self.pairs[layer]
        return tensor + self.scale * (B.float() @ A.float())  # (out, in)


def write_adapter(
    model: GPT, config: LoraConfig, folder: Path, base: str, revision: str | None, sha256: str
) -> None:
    """Write the two files of a model that has the adapters of `add_lora`.

    Args:
        base, revision, sha256: where the model's weights come from, and their hash.
    """
    tensors = {}
    for name, tensor in model.named_parameters():
        if is_adapter(name):
            # h.0.attn.c_attn.lora_A -> base_model.model.transformer.h.0.attn.c_attn.lora_A.weight
            tensors[f"{PREFIX}{weights.PREFIX}{name}.weight"] = tensor.detach()
    shapes = {key: tensor.shape for key, tensor in tensors.items()}
    path = folder / ADAPTER_WEIGHTS
    weights.write(shapes, tensors.values(), path, torch.float32, base_sha256=sha256)

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
        # transformers stores GPT-2's matrices as (in, out).
        "fan_in_fan_out": True,
        "bias": "none",
    }
    write_config(folder / ADAPTER_CONFIG, content)


def read_adapter_config(path: Path, content: dict[str, Any]) -> AdapterConfig:
    """Check a parsed `adapter_config.json`.

    Raises:
        InputError: a key is missing, has a value of the wrong kind, or needs what is not
            implemented.
    """

    def expect(right: bool, key: str, expected: str) -> None:
        if not right:
            raise InputError(f"{path}: {key}: expected {expected}, found {content.get(key)!r}")

    # Refuse what makes another kind of adapter.
    kind = content.get("peft_type")
    if kind != "LORA":
        raise InputError(f"{path}: peft_type: {kind!r} is not implemented, expected 'LORA'")
    for key, value in content.items():
        off = (
            value in STARTS
            if key == "init_lora_weights"
            else value in (None, False, {}, [], "none")
        )
        if not off and key not in READ | UNREAD:
            raise InputError(f"{path}: {key}: {value!r} is not implemented")

    # True and False are numbers in Python.
    rank: Any = content.get("r")
    is_rank = isinstance(rank, int) and not isinstance(rank, bool) and rank >= 1
    expect(is_rank, "r", "a whole number from 1 up")
    alpha: Any = content.get("lora_alpha")
    is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    expect(is_number and 0 < alpha < float("inf"), "lora_alpha", "a number above 0")

    targets: Any = content.get("target_modules")
    are_names = isinstance(targets, list) and all(isinstance(name, str) for name in targets)
    expect(are_names, "target_modules", "a list of layers' names")
    base: Any = content.get("base_model_name_or_path")
    expect(isinstance(base, str), "base_model_name_or_path", "the base's name")
    revision: Any = content.get("revision")
    expect(isinstance(revision, str | None), "revision", "a commit, a tag or a branch")

    scale = alpha / (rank**0.5 if content.get("use_rslora") else rank)
    return AdapterConfig(path, base, revision, rank, scale, targets)


def read_adapter(config: AdapterConfig, base: GPTConfig, base_sha256: str) -> Adapter:
    """Read the matrices that belong to an `adapter_config.json`.

    Raises:
        InputError: the file is missing or damaged, its tensors do not fit the config and the base,
            or it was trained on a base with other weights.
    """
    path = config.path.with_name(ADAPTER_WEIGHTS)
    if not path.is_file():
        raise InputError(
            f"{path}: no such file, but {ADAPTER_CONFIG} is there; pickled weights are not loaded"
        )
    stored = {}
    for key, tensor in weights.headers([path]).items():
        stored[key.removeprefix(PREFIX).removeprefix(weights.PREFIX)] = tensor

    # The file must hold A and B of each adapted layer, and nothing else.
    names = {}
    expected: dict[str, tuple[int, ...]] = {}
    for layer, (out, width) in _adapted_layers(config, base).items():
        A = f"{layer}.lora_A.weight"
        B = f"{layer}.lora_B.weight"
        names[layer] = (A, B)
        expected[A] = (config.rank, width)
        expected[B] = (out, config.rank)
    weights.check(stored, expected, path)

    # An adapter that another program wrote does not have the hash of its base.
    with safe_open(path, framework="pt") as file:
        trained_on = (file.metadata() or {}).get("base_sha256", base_sha256)
    if trained_on != base_sha256:
        raise InputError(
            f"{path}: was trained with other weights than {config.base} has now (sha256 "
            f"{trained_on[:12]}…, now {base_sha256[:12]}…); restore those"
        )

    pairs = {layer: (stored[A].read(), stored[B].read()) for layer, (A, B) in names.items()}
    both = f"{base_sha256} {weights.sha256([config.path, path])}"
    return Adapter(pairs, config.scale, hashlib.sha256(both.encode()).hexdigest())


def _adapted_layers(config: AdapterConfig, base: GPTConfig) -> dict[str, tuple[int, int]]:
    """Return (out, in) of each linear layer that the config targets, by name."""
    found = {}
    for name, tensor in weights.skeleton(base).state_dict().items():
        layer = name.removesuffix(".weight")
        full = f".{weights.PREFIX}{layer}"
        targeted = any(full.endswith(f".{target}") for target in config.targets)
        if targeted and weights.CONV1D.fullmatch(name):
            out, width = tensor.shape
            found[layer] = (out, width)
    return found
