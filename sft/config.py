"""Every choice a user can make, as dataclasses.

What each choice means, with its unit, is written beside its default in `conf/`. This file adds the type, the range and
the options, and knows nothing of torch, so a mistake is answered at once. `sft/merge.py` is the way from Hydra's config
into these dataclasses.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field
from typing import Any
from urllib.parse import urlsplit


class InputError(Exception):
    """Something given by the user, or by the outside world, cannot be used.

    The message is one line that says what was wrong, where (file, record, key), what was expected and what to do; the
    entry points print it without a traceback. What it quotes of a file may be long: the middle is left out then.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message if len(message) <= 1500 else f"{message[:1000]} … {message[-400:]}")


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
        if os.path.isdir(self.checkpoint):  # else it names a repository; `outputs/latest` is turned to the new run
            self.checkpoint = os.path.realpath(self.checkpoint)


def _scheme(path: str) -> str | None:
    """The scheme of an address (`https`); None for the path of a file."""
    found = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://", path)
    return found[1].lower() if found else None


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
        if self.path and not _scheme(self.path):  # a run is evaluated, and resumed, from anywhere
            self.path = os.path.abspath(os.path.expanduser(self.path))
            if self.path.startswith("/dev/") and os.path.isfile(self.path):  # /dev/stdin, which is another file later
                self.path = os.path.realpath(self.path)

    def check(self) -> Iterable[str]:
        if self.source == "json" and not self.path:
            yield "data.path: missing; data=json needs data.path=FILE, a JSON array or JSON Lines"
        if scheme := _scheme(self.path or ""):
            remedy = "leave file:// out" if scheme == "file" else "download it first, and give data.path=FILE"
            yield f"data.path: an address ({scheme}://…), expected a file; {remedy}"
        if self.source in ("json", "nano") and self.url:
            yield f"data.url: {self.url!r} would not be read by data={self.source}"
        if self.source not in ("json", "nano") and not self.url:
            yield f"data.url: missing; data={self.source} would be downloaded from there"
        if "@" in (self.url or "").partition("//")[2].partition("/")[0]:
            yield "data.url: holds a name and a password, which would be written down; use data=json data.path=FILE"
        if len(self.split) != 3:
            yield f"data.split: {len(self.split)} numbers, expected 3: the shares of train, test and validation"
        elif abs(sum(self.split) - 1) > 1e-6:
            yield f"data.split: {self.split} sums to {sum(self.split):g}, expected 1"

    def check_path(self) -> Iterable[str]:
        """A path beside a data set that has a file of its own; only of a run that exists it says where that file is."""
        if self.source != "json" and self.path is not None:
            yield f"data.path: {self.path!r} would not be read by data={self.source}; use data=json"


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
    split: str = one_of("validation", "test")
    rank: str = one_of("validation_loss", "loss", "score", "exact_match", "token_f1", "rouge_l", "chrf")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of an IPv6 address, or a port, that is none
        return False


@dataclass
class JudgeConfig:
    kind: str = "none"
    model: str | None = None
    url: str | None = None
    pull: bool = False
    context: int | None = at_least(1024, None)
    schema: bool = True
    max_tokens: int = at_least(16, 512)
    prompt: str = one_of("strict", "published")
    mode: str = one_of("score", "pairwise")
    audit: int = at_least(0, 20)
    min_coverage: float = field(default=0.9, metadata={"low": 0, "high": 1})
    concurrency: int = field(default=4, metadata={"low": 1, "high": 256})
    timeout: float = field(default=120.0, metadata={"above": 0, "high": 86400})
    retries: int = field(default=4, metadata={"low": 0, "high": 100})
    seed: int = at_least(0, 123)

    def check(self) -> Iterable[str]:
        if self.kind == "none":
            return
        if not self.model:
            yield f"judge.model: missing; judge={self.kind} needs judge.model=NAME"
        if any(sign in (self.url or "") for sign in "@?#"):
            yield "judge.url: holds more than an address; leave name, password and query out, for it is written down"
        if not _is_address(self.url or ""):
            yield f"judge.url: {self.url!r}, expected the address of a server, such as http://localhost:11434"
        if self.kind != "ollama" and (self.pull or self.context):
            yield f"judge.{'pull' if self.pull else 'context'}: only an Ollama server reads it; leave it out"
        if self.mode == "pairwise" and self.prompt == "published":
            yield "judge.prompt: the published runs compared no pairs; judge.mode=pairwise goes with strict"


LORA_TARGETS = ("c_attn", "c_proj", "c_fc")  # c_proj: that of attention and that of the MLP


@dataclass
class LoraConfig:
    kind: str = one_of("none", "default")
    rank: int = at_least(1, 8)
    alpha: float = above(0, 16.0)
    dropout: float = field(default=0.0, metadata={"low": 0, "below": 1})
    targets: list[str] = field(default_factory=lambda: list(LORA_TARGETS))

    def check(self) -> Iterable[str]:
        known = ", ".join(LORA_TARGETS)
        if not self.targets:
            yield f"lora.targets: none; expected some of {known}"
        for name in self.targets:
            if name not in LORA_TARGETS:
                yield f"lora.targets: unknown value {name!r}; expected some of {known}"


@dataclass
class CheckpointConfig:
    every: int | None = at_least(1, None)
    minutes: float | None = above(0, None)


@dataclass
class TrainConfig:
    model: ModelConfig
    data: DataConfig
    optim: OptimConfig
    eval: EvalConfig
    device: str = one_of("auto", "cpu", "cuda", "mps")
    devices: int = at_least(1, 1)
    strategy: str = one_of("auto", "ddp", "fsdp")
    precision: str = one_of("auto", "32", "bf16-mixed", "16-mixed")
    batch_size: int = at_least(1, 8)
    accumulate: int = at_least(1, 1)
    epochs: int = at_least(1, 2)
    max_steps: int = at_least(-1, -1)
    seed: int = at_least(0, 123)
    on_nonfinite: str = one_of("stop", "skip")
    logger: str = one_of("tensorboard", "csv", "wandb", "mlflow", "none")
    compile: bool = False
    activation_checkpointing: bool = False
    evaluate: bool = False
    judge: JudgeConfig = field(default_factory=JudgeConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    resume: str | None = None

    def check(self) -> Iterable[str]:
        if self.judge.kind != "none" and not self.evaluate:
            yield f"judge: {self.judge.kind} would not be asked without evaluate=true"
        if self.eval.rank != "validation_loss" and not self.evaluate:
            yield f"eval.rank: there is no {self.eval.rank} without evaluate=true"
        if self.eval.rank == "score" and self.judge.kind == "none":
            yield "eval.rank: there is no score without a judge; add judge=ollama or judge=openai"
        if self.resume is None:
            yield from self.data.check_path()
        if self.data.split[0] == 0:
            yield "data.split: a share of 0 for train leaves nothing to learn"
        if self.max_steps == 0:
            yield "max_steps: 0 would train nothing; expected a number from 1 up, or -1 for no limit"
        if self.device == "cpu" and self.precision == "16-mixed":
            yield "precision: 16-mixed needs a GPU; on the CPU use bf16-mixed or 32"
        for name, given in (
            ("lora", self.lora.kind != "none"),
            ("compile=true", self.compile),
            ("precision=16-mixed", self.precision == "16-mixed"),
        ):
            if given and self.strategy == "fsdp":
                yield f"strategy: fsdp does not go with {name}; leave out one of the two"
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
    batch_size: int = at_least(1, 32)
    seed: int = at_least(0, 123)
    device: str = one_of("auto", "cpu", "cuda", "mps")
    devices: int = at_least(1, 1)
    precision: str = one_of("auto", "32", "bf16-mixed", "16-mixed")
    judge: JudgeConfig = field(default_factory=JudgeConfig)

    def check(self) -> Iterable[str]:
        if self.checkpoint is not None:
            yield from self.data.check_path()
        if self.checkpoint is not None and self.out is None:
            yield "out: missing; checkpoint= has no run folder to write to, so give out=FOLDER"
        if self.checkpoint is None and self.compare is None and self.out is not None:
            yield "out: only for checkpoint= and compare=; a run is evaluated in its own folder"
        if self.compare is not None and len(self.compare) != 2:
            yield f"compare: {len(self.compare)} runs, expected two: compare=[FOLDER,FOLDER]"
