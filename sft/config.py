"""Every choice a user can make, as dataclasses, and the one way from Hydra's config into them.

What each choice means, with its unit, is written beside its default in `conf/`. This file adds the type, the range and
the options, and knows nothing of torch, so a mistake is answered at once.
"""

import os
import types
import typing
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


class InputError(Exception):
    """Something given by the user, or by the outside world, cannot be used.

    The message is one line that says what was wrong, where (file, record, key), what was expected and what to do; the
    entry points print it without a traceback.
    """


def at_least(low: float, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"low": low})


def above(low: float, default: Any = MISSING) -> Any:
    return field(default=default, metadata={"above": low})


def one_of(*options: str) -> Any:
    """A field whose value is one of the options, the first by default."""
    return field(default=options[0], metadata={"options": options})


# The prompt templates, in Jinja: see sft/data/prompt.py. To add one, add it here.
_TASK = "Below is an instruction that describes a task"
_ANSWER = "Write a response that appropriately completes the request."

PROMPTS: dict[str, str] = {
    "alpaca": (
        f"{_TASK}. {_ANSWER}"
        "\n\n### Instruction:\n{{ instruction }}"
        "{% if input %}\n\n### Input:\n{{ input }}{% endif %}"
        "\n\n### Response:\n"
    ),
    "alpaca-stanford": (  # github.com/tatsu-lab/stanford_alpaca, "Data Release"
        "{% if input %}"
        f"{_TASK}, paired with an input that provides further context. {_ANSWER}"
        "\n\n### Instruction:\n{{ instruction }}\n\n### Input:\n{{ input }}"
        "{% else %}"
        f"{_TASK}. {_ANSWER}"
        "\n\n### Instruction:\n{{ instruction }}"
        "{% endif %}"
        "\n\n### Response:"
    ),
    "phi3": "<|user|>\n{{ instruction }}{% if input %}\n{{ input }}{% endif %}\n<|assistant|>\n",
    "none": "",
}


@dataclass
class ModelConfig:
    checkpoint: str
    revision: str | None = None
    dropout: float = field(default=0.0, metadata={"low": 0, "below": 1})
    allow_untrained: bool = False

    def __post_init__(self) -> None:
        if os.path.isdir(self.checkpoint):  # else it names a repository
            self.checkpoint = os.path.abspath(self.checkpoint)


@dataclass
class DataConfig:
    source: str = "nano"
    path: str | None = None
    url: str | None = None
    sha256: str | None = None
    sample: int | None = at_least(1, None)
    sample_seed: int = 123
    split: list[float] = field(default_factory=lambda: [0.85, 0.10, 0.05], metadata={"low": 0})
    prompt: str = one_of(*PROMPTS)
    mask_prompt: bool = False
    max_length: int | None = at_least(2, None)
    shuffle: bool = True
    bucket: bool = False
    workers: int = at_least(0, 0)

    def __post_init__(self) -> None:
        if self.path:  # a run is evaluated, and resumed, from anywhere
            self.path = os.path.abspath(os.path.expanduser(self.path))

    def check(self) -> Iterable[str]:
        if self.source == "json" and not self.path:
            yield "data.path: missing; data=json needs data.path=FILE, a JSON array or JSON Lines"
        if self.source in ("json", "nano") and self.url:
            yield f"data.url: {self.url!r} would not be read by data={self.source}"
        if self.source not in ("json", "nano") and not self.url:
            yield f"data.url: missing; data={self.source} would be downloaded from there"
        if self.source != "json" and self.path is not None:
            yield f"data.path: {self.path!r} would not be read by data={self.source}; use data=json"
        if len(self.split) != 3:
            yield f"data.split: {len(self.split)} numbers, expected 3: the shares of train, test and validation"
        elif abs(sum(self.split) - 1) > 1e-6:
            yield f"data.split: {self.split} sums to {sum(self.split):g}, expected 1"


@dataclass
class OptimConfig:
    lr: float = above(0, 5e-5)
    weight_decay: float = at_least(0, 0.1)
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999], metadata={"low": 0, "below": 1})
    schedule: str = one_of("constant", "cosine")
    warmup_steps: int = at_least(0, 0)
    grad_clip: float | None = above(0, None)

    def check(self) -> Iterable[str]:
        if len(self.betas) != 2:
            yield f"optim.betas: {len(self.betas)} numbers, expected 2"


@dataclass
class EvalConfig:
    every: int = at_least(0, 5)
    batches: int = at_least(1, 5)
    sample: bool = True


@dataclass
class TrainConfig:
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    eval: EvalConfig
    device: str = one_of("auto", "cpu", "cuda", "mps")
    devices: int = at_least(1, 1)
    strategy: str = one_of("auto", "ddp")
    precision: str = one_of("auto", "32", "bf16-mixed", "16-mixed")
    batch_size: int = at_least(1, 8)
    accumulate: int = at_least(1, 1)
    epochs: int = at_least(1, 2)
    max_steps: int = at_least(-1, -1)
    seed: int = at_least(0, 123)
    compile: bool = False
    resume: str | None = None

    def check(self) -> Iterable[str]:
        if self.data.split[0] == 0:
            yield "data.split: a share of 0 for train leaves nothing to learn"
        if self.max_steps == 0:
            yield "max_steps: 0 would train nothing; expected a number from 1 up, or -1 for no limit"
        if self.device == "cpu" and self.precision == "16-mixed":
            yield "precision: 16-mixed needs a GPU; on the CPU use bf16-mixed or 32"
        if self.device == "mps" and self.devices > 1:
            yield f"devices: {self.devices}, but device=mps is one device"


@dataclass
class GenerateConfig:
    max_new_tokens: int = at_least(1, 256)
    temperature: float = at_least(0, 0.0)
    top_k: int | None = at_least(1, None)

    def check(self) -> Iterable[str]:
        if 0 < self.temperature < 1e-4:
            yield f"generate.temperature: {self.temperature} is too near to 0 for fp32; 0 takes the likeliest token"


@dataclass
class EvaluateConfig:
    data: DataConfig
    generate: GenerateConfig
    run: str | None = None
    compare: list[str] | None = None
    checkpoint: str | None = None
    revision: str | None = None
    out: str | None = None
    split: str = one_of("test", "validation", "train")
    limit: int | None = at_least(1, None)
    train_records: int = at_least(0, 1000)
    batch_size: int = at_least(1, 16)
    seed: int = at_least(0, 123)
    device: str = one_of("auto", "cpu", "cuda", "mps")
    precision: str = one_of("auto", "32", "bf16-mixed", "16-mixed")

    def check(self) -> Iterable[str]:
        if self.checkpoint is not None and self.out is None:
            yield "out: missing; checkpoint= has no run folder to write to, so give out=FOLDER"
        if self.checkpoint is None and self.compare is None and self.out is not None:
            yield "out: only for checkpoint= and compare=; a run is evaluated in its own folder"
        if self.compare is not None and len(self.compare) != 2:
            yield f"compare: {len(self.compare)} runs, expected two: compare=[FOLDER,FOLDER]"


def from_hydra(kind: type[T], composed: Any) -> T:
    """The dataclass of `kind` that a composed DictConfig describes.

    Raises:
        InputError: a key that is not there or not known, a value of the wrong type or out of its range; by key.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        if missing := sorted(OmegaConf.missing_keys(composed)):
            raise InputError(f"{missing[0]}: missing; give it on the command line as {missing[0]}=...")
        return from_dict(kind, OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise InputError(f"{key or 'config'}: {str(error).splitlines()[0]}") from error


def from_dict(kind: type[T], values: dict[str, Any], where: str = "") -> T:
    """The dataclass of `kind` that plain values describe; the errors are those of `from_hydra`."""
    known = {item.name: item for item in fields(kind)}  # type: ignore[arg-type]
    if unknown := [key for key in values if key not in known]:
        raise InputError(f"{where}{unknown[0]}: unknown key; known here: {', '.join(known)}")
    hints = typing.get_type_hints(kind)
    arguments: dict[str, Any] = {}
    for name, item in known.items():
        key = where + name
        if name in values and is_dataclass(hints[name]):
            if not isinstance(values[name], dict):
                raise InputError(f"{key}: found {values[name]!r}, expected a group of keys")
            arguments[name] = from_dict(hints[name], values[name], key + ".")
        elif name in values:
            arguments[name] = _checked(_typed(values[name], hints[name], key), item.metadata, key)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise InputError(f"{key}: missing; give it on the command line as {key}=...")
    config = kind(**arguments)
    for problem in getattr(config, "check", list)():
        raise InputError(problem)
    return config


def _typed(value: Any, hint: Any, key: str) -> Any:
    """The value as its field's type; of all conversions, only those that lose nothing (8 -> 8.0, 32 -> "32")."""
    if isinstance(hint, types.UnionType):  # X | None
        return None if value is None else _typed(value, typing.get_args(hint)[0], key)
    if typing.get_origin(hint) is list and isinstance(value, list):
        return [_typed(item, typing.get_args(hint)[0], key) for item in value]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(min(max(value, -(2**1023)), 2**1023))  # a longer number is no double
    if hint is str and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, typing.get_origin(hint) or hint) or (hint is int and isinstance(value, bool)):
        names = {int: "a whole number", float: "a number", str: "text (in quotes)", bool: "true or false"}
        raise InputError(f"{key}: found {value!r}, expected {names.get(hint, 'a list, as in [a,b]')}")
    return value


def _checked(value: Any, limits: typing.Mapping[str, Any], key: str) -> Any:
    if value is None:
        return None
    if "options" in limits and value not in limits["options"]:
        raise InputError(f"{key}: unknown value {value!r}; expected one of {', '.join(limits['options'])}")
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, float) and not abs(number) < float("inf"):
            raise InputError(f"{key}: {number} is not a finite number")
        if "low" in limits and number < limits["low"]:
            raise InputError(f"{key}: {number} is out of range, expected at least {limits['low']}")
        if "above" in limits and number <= limits["above"]:
            raise InputError(f"{key}: {number} is out of range, expected more than {limits['above']}")
        if "below" in limits and number >= limits["below"]:
            raise InputError(f"{key}: {number} is out of range, expected less than {limits['below']}")
    return value
