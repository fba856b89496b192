"""Every choice a user can make, with its type, its options and its range.

The meaning of a choice, with its unit, is written next to its default in `conf/`. Options are a
`Literal`, so that mypy sees a misspelt one. Ranges are an `Annotated`, which `loading.py` checks.
Nothing here knows torch, so a mistake is answered at once.
"""

import os
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le, Lt

from sft.latest import followed
from sft.metrics import BY_NAME, TEXT_METRICS
from sft.prompts import PROMPTS


@dataclass(frozen=True)
class OneOf:
    """The options of a text, whose names come from a table in another file."""

    options: Collection[str]


Natural = Annotated[int, Ge(0)]
Positive = Annotated[int, Ge(1)]
Share = Annotated[float, Ge(0), Le(1)]
ShareBelowOne = Annotated[float, Ge(0), Lt(1)]
ShareAboveZero = Annotated[float, Gt(0), Le(1)]
Penalty = Annotated[float, Ge(-2), Le(2)]
NotNegative = Annotated[float, Ge(0)]
AboveZero = Annotated[float, Gt(0)]

# The ways to treat a record that is longer than data.max_length.
TooLong = Literal["cut", "drop", "split"]

PromptName = Annotated[str, OneOf(tuple(PROMPTS))]

# The data sets that are the user's own files: `json` is the older name.
OWN_FILES = ("file", "json")

# The judges, and the class of each. To add one: a subclass of `Judge`, its line here, and a file in
# `conf/judge/`. The classes are named, not imported: nothing here may know the judge's client.
JUDGES = {
    "ollama": "sft.judge.ollama:Ollama",
    "openai": "sft.judge.openai:OpenAI",
}
JudgeName = Annotated[str, OneOf(("none", *JUDGES))]

# The wordings in which a judge is asked for a score, and the function that writes each. To add one:
# the function and its line here.
WORDINGS = {
    "strict": "sft.judge.prompts:strict",
    "published": "sft.judge.prompts:published",
    "short": "sft.judge.prompts:short",
}
WordingName = Annotated[str, OneOf(tuple(WORDINGS))]

Device = Literal["auto", "cpu", "cuda", "mps"]
SplitBy = Literal["order", "random", "question", "category"]
KeepBy = Literal["random", "longest", "ifd"]
OnNonfinite = Literal["stop", "skip"]
PrecisionName = Literal["auto", "32", "bf16-mixed", "16-mixed"]
AnswerPrecisionName = Literal["auto", "32", "bf16-mixed", "16-mixed", "int8"]
BestName = Annotated[str, OneOf(("validation_loss", *TEXT_METRICS))]
Rank = Annotated[str, OneOf(("validation_loss", *BY_NAME))]

# `c_proj` is the name of two layers: the output of attention, and that of the MLP.
LoraTarget = Literal["c_attn", "c_proj", "c_fc"]
LORA_TARGETS: tuple[LoraTarget, ...] = ("c_attn", "c_proj", "c_fc")


@dataclass
class ModelConfig:
    checkpoint: str
    revision: str | None = None
    dropout: ShareBelowOne = 0.0
    allow_untrained: bool = False

    def __post_init__(self) -> None:
        # A folder is kept by its real path: `outputs/latest` will point at the new run, which must
        # not become its own base. Other names are repositories of the hub.
        folder = followed(self.checkpoint)
        if folder.is_dir():
            self.checkpoint = os.path.realpath(folder)


def scheme_of(path: str) -> str | None:
    """Return the scheme of an address, such as `https`; None for the path of a file."""
    found = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://", path)
    return found[1].lower() if found else None


@dataclass
class DataConfig:
    source: str = "nano"
    path: str | list[str] | None = None
    name: str | None = None
    part: str = "train"
    revision: str | None = None
    weights: list[AboveZero] | None = None
    test: str | None = None
    validation: str | None = None
    url: str | None = None
    sha256: str | None = None
    licence: str | None = None
    fields: dict[str, str] | None = None
    sample: Positive | None = None
    sample_seed: int = 123
    split: list[NotNegative] = field(default_factory=lambda: [0.85, 0.10, 0.05])
    split_by: SplitBy = "order"
    split_seed: Natural = 123
    drop_empty: bool = False
    keep: Annotated[float, Gt(0), Le(1)] = 1.0
    keep_by: KeepBy = "random"
    prompt: PromptName | None = None
    mask_prompt: bool = False
    prompt_weight: Share = 1.0
    max_length: Annotated[int, Ge(2)] | None = None
    too_long: TooLong = "cut"
    shuffle: bool = True
    bucket: bool = False
    workers: Natural = 0

    def __post_init__(self) -> None:
        if self.source == "hub":
            # The path is a name on the hub.
            pass
        elif isinstance(self.path, list):
            self.path = [_whole(path) for path in self.path]
        elif self.path:
            self.path = _whole(self.path)
        self.test = self.test and _whole(self.test)
        self.validation = self.validation and _whole(self.validation)

    @property
    def answers_alone(self) -> bool:
        """Whether only the answers are learned: `mask_prompt` is the weight 0 by another name."""
        return self.mask_prompt or self.prompt_weight == 0

    def paths(self) -> list[str]:
        """Return the files, folders and patterns of the user's own data, or its name on the hub."""
        if isinstance(self.path, str):
            return [self.path]
        return self.path or []


def _whole(path: str) -> str:
    """Return a path that names the same file from every folder.

    A run may be evaluated, or resumed, from another folder than the one it was started in.
    """
    if not path or scheme_of(path):
        return path
    path = os.path.abspath(os.path.expanduser(path))

    # /dev/stdin is another file later, so the file behind it is kept.
    is_file = path.startswith("/dev/") and os.path.isfile(path)
    return os.path.realpath(path) if is_file else path


Moments = Literal["fp32", "bf16", "8bit"]


@dataclass
class OptimConfig:
    lr: AboveZero = 5e-5
    weight_decay: NotNegative = 0.1
    betas: list[ShareBelowOne] = field(default_factory=lambda: [0.9, 0.999])
    beta2_half_life: AboveZero | None = None
    schedule: Literal["constant", "cosine", "linear", "wsd"] = "constant"
    min_lr: NotNegative = 0.0
    warmup_steps: Natural = 0
    warmup: ShareBelowOne | None = None
    grad_clip: AboveZero | None = None
    ema: Annotated[float, Gt(0), Lt(1)] | None = None
    moments: Moments = "fp32"
    neftune: AboveZero | None = None


@dataclass
class EvalConfig:
    every: Natural = 5
    batches: Positive = 5
    sample: bool = True
    split: Literal["validation", "test"] = "validation"
    rank: Rank = "validation_loss"
    answers: Positive | None = None
    answers_every: Positive | None = None
    best: BestName = "validation_loss"
    patience: Positive | None = None


@dataclass
class JudgeConfig:
    kind: JudgeName = "none"
    model: str | None = None
    url: str | None = None
    pull: bool = False
    context: Annotated[int, Ge(1024)] | None = None
    schema: bool = True
    max_tokens: Annotated[int, Ge(16)] = 512
    prompt: WordingName = "strict"
    mode: Literal["score", "pairwise"] = "score"
    audit: Natural = 20
    min_coverage: Share = 0.9
    concurrency: Annotated[int, Ge(1), Le(256)] = 4
    timeout: Annotated[float, Gt(0), Le(86400)] = 120.0
    retries: Annotated[int, Ge(0), Le(100)] = 4
    seed: Natural = 123


@dataclass
class LoraConfig:
    kind: Literal["none", "default"] = "none"
    rank: Positive = 8
    alpha: AboveZero = 16.0
    dropout: ShareBelowOne = 0.0
    targets: list[LoraTarget] = field(default_factory=lambda: list(LORA_TARGETS))


@dataclass
class DpoConfig:
    beta: AboveZero = 0.1
    loss: Literal["sigmoid", "ipo", "norm"] = "sigmoid"


@dataclass
class CheckpointConfig:
    every: Positive | None = None
    minutes: AboveZero | None = None


@dataclass
class TrainConfig:
    """The settings of `python train.py`."""

    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    eval: EvalConfig
    objective: Literal["sft", "dpo"] = "sft"
    dpo: DpoConfig = field(default_factory=DpoConfig)
    device: Device = "auto"
    devices: Positive = 1
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    precision: PrecisionName = "auto"
    threads: Positive | Literal["auto"] = "auto"
    batch_size: Positive = 8
    accumulate: Positive = 1
    epochs: Positive = 2
    max_steps: Annotated[int, Ge(-1)] = -1
    seed: Natural = 123
    on_nonfinite: OnNonfinite = "stop"
    logger: Literal["tensorboard", "csv", "wandb", "mlflow", "none"] = "tensorboard"
    compile: bool = False
    profile: bool = False
    activation_checkpointing: bool = False
    evaluate: bool = False
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    resume: str | None = None


@dataclass
class GenerateConfig:
    max_new_tokens: Positive = 256
    temperature: NotNegative = 0.0
    top_k: Positive | None = None
    top_p: ShareAboveZero | None = None
    min_p: ShareAboveZero | None = None
    repetition_penalty: AboveZero = 1.0
    no_repeat_ngram: Positive | None = None
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    stop: list[str] = field(default_factory=list)
    best_of: Positive = 1


@dataclass
class EvaluateConfig:
    """The settings of `python evaluate.py`."""

    data: DataConfig
    generate: GenerateConfig
    run: str | None = None
    compare: list[str] | None = None
    labels: str | None = None
    checkpoint: str | None = None
    revision: str | None = None
    out: str | None = None
    templates: list[str] | None = None
    split: Literal["test", "validation", "train"] = "test"
    limit: Positive | None = None
    train_records: Natural = 1000
    batch_size: Positive = 32
    seed: Natural = 123
    device: Device = "auto"
    devices: Positive = 1
    precision: AnswerPrecisionName = "auto"
    judge: JudgeConfig = field(default_factory=JudgeConfig)


def evaluation_of(config: TrainConfig, folder: Path, devices: int) -> EvaluateConfig:
    """Return the settings of the evaluation that `evaluate=true` starts after the training.

    Args:
        folder: the folder of the run.
        devices: the processes that answer. Where torchrun trained, one of its own is left.
    """
    return EvaluateConfig(
        data=config.data,
        generate=GenerateConfig(),
        run=str(folder),
        split=config.eval.split,
        seed=config.seed,
        device=config.device,
        devices=devices,
        precision=config.precision,
        judge=config.judge,
    )
