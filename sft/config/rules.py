"""Every rule between keys, for both doors.

- `RULES`: the keys of one dataclass contradict each other. `check` reads it whenever a config is
  made, also from a saved run, so a rule that old runs may break does not belong here.
- `UNREAD_BY_...`: a key was given on the command line, but nothing would read it. `check_given`
  reads these tables.
- `check_processes` and `steps_warning`: rules about the processes and the steps of the run, which
  are known later.

Other files call `unfit_precision` and `too_cold`, and raise `NO_PATH`, where they meet the same
rule without a checked config.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from sft.config.schema import (
    LORA_TARGETS,
    OWN_FILES,
    DataConfig,
    EvaluateConfig,
    GenerateConfig,
    JudgeConfig,
    LoraConfig,
    OptimConfig,
    TrainConfig,
    scheme_of,
)
from sft.errors import InputError, counted

Problems = Iterator[str]

NO_PATH = (
    "data.path: missing; data=file (or data=json) needs data.path=FILE, also a folder, a pattern "
    "or a list [FILE,FILE]"
)

MASKED = "data.mask_prompt=true is the weight 0; add data.mask_prompt=false"


def check(config: object) -> None:
    """Raise InputError for the first rule that one dataclass breaks, its groups not included."""
    for problem in RULES.get(type(config), _no_rules)(config):
        raise InputError(problem)


def _no_rules(config: object) -> Problems:
    yield from ()


def _data(data: DataConfig) -> Problems:
    local = data.source in (*OWN_FILES, "hub", "nano")
    if data.source in OWN_FILES and not all(data.paths() or [""]):
        yield NO_PATH
    if data.source == "hub" and not (isinstance(data.path, str) and data.path):
        yield "data.path: missing; data=hub needs the name of a data set, data.path=OWNER/NAME"
    given = [("path", path) for path in data.paths()]
    for key, path in (*given, ("test", data.test or ""), ("validation", data.validation or "")):
        if scheme := scheme_of(path):
            remedy = f"download it first, and give data.{key}=FILE"
            if scheme == "file":
                remedy = "leave file:// out"
            yield f"data.{key}: an address ({scheme}://…), expected a file; {remedy}"
    if local and data.url:
        yield f"data.url: {data.url!r} would not be read by data={data.source}"
    if not local and not data.url:
        yield f"data.url: missing; data={data.source} would be downloaded from there"
    if "@" in (data.url or "").partition("//")[2].partition("/")[0]:
        yield (
            "data.url: holds a name and a password, which would be kept in the run's files; use "
            "data=file data.path=FILE"
        )
    if data.weights is not None and len(data.weights) != len(data.paths()):
        yield (
            f"data.weights: {counted(len(data.weights), 'number')} for "
            f"{counted(len(data.paths()), 'entry', 'entries')} in data.path; give one number for "
            "each, as in data.path=[a.jsonl,b.csv] data.weights=[1,0.3]"
        )
    if data.mask_prompt and 0 < data.prompt_weight < 1:
        yield (f"data.prompt_weight: {data.prompt_weight}, but {MASKED}")
    if len(data.split) != 3:
        yield (
            f"data.split: {len(data.split)} numbers, expected 3: the shares of train, test and "
            "validation"
        )
    elif abs(sum(data.split) - 1) > 1e-6:
        yield f"data.split: {data.split} sums to {sum(data.split):g}, expected 1"


def _path(data: DataConfig) -> Problems:
    """A data set with a file of its own needs no path, unless a run that exists looks for it."""
    if data.source not in (*OWN_FILES, "hub") and data.path is not None:
        yield f"data.path: {data.path!r} would not be read by data={data.source}; use data=file"


def _optim(optim: OptimConfig) -> Problems:
    if len(optim.betas) != 2:
        yield f"optim.betas: {len(optim.betas)} numbers, expected 2"
    elif optim.beta2_half_life is not None and optim.betas[1] != OptimConfig().betas[1]:
        yield (
            f"optim.betas: {optim.betas[1]} would not be read, as optim.beta2_half_life decides; "
            "leave out one of the two"
        )
    if optim.warmup is not None and optim.warmup_steps:
        yield (
            f"optim.warmup: {optim.warmup} is a share of the steps, and optim.warmup_steps="
            f"{optim.warmup_steps} their number; give one of them"
        )
    if optim.min_lr > optim.lr:
        yield f"optim.min_lr: {optim.min_lr} is more than optim.lr={optim.lr}; lower it"


def _lora(lora: LoraConfig) -> Problems:
    if not lora.targets:
        yield f"lora.targets: none; expected some of {', '.join(LORA_TARGETS)}"


def _judge(judge: JudgeConfig) -> Problems:
    if judge.kind == "none":
        return
    url = judge.url or ""
    if not judge.model:
        yield f"judge.model: missing; judge={judge.kind} needs judge.model=NAME"
    if any(sign in url for sign in "@?#"):
        yield (
            "judge.url: holds more than an address; leave out name, password and query, because "
            "the address is written down"
        )
    if not _is_address(url):
        yield (
            f"judge.url: {judge.url!r}, expected the address of a server, such as http://localhost:11434"
        )
    if judge.kind != "ollama" and (judge.pull or judge.context):
        key = "pull" if judge.pull else "context"
        yield f"judge.{key}: only an Ollama server reads it; leave it out"
    if judge.mode == "pairwise" and judge.prompt != "strict":
        yield (
            f"judge.prompt: {judge.prompt} asks about one answer; judge.mode=pairwise goes with "
            "strict"
        )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        # The IPv6 address is malformed, or the port is not a number.
        return False


def _generate(generate: GenerateConfig) -> Problems:
    if problem := too_cold(generate.temperature):
        yield f"generate.temperature: {problem}"
    if generate.best_of > 1 and generate.temperature == 0:
        yield (
            f"generate.best_of: {generate.best_of} answers at generate.temperature=0 are all "
            "equal; raise the temperature, such as to 0.7"
        )
    if "" in generate.stop:
        yield "generate.stop: holds an empty text, which every answer begins with; leave it out"


def too_cold(temperature: float) -> str | None:
    """Return a problem if the temperature is too small to divide fp32 logits by."""
    if 0 < temperature < 1e-4:
        return f"{temperature} is too near to 0 for fp32; 0 takes the likeliest token"
    return None


def _train(config: TrainConfig) -> Problems:
    # Settings of what follows training.
    if config.judge.kind != "none" and not config.evaluate:
        yield f"judge: {config.judge.kind} would not be asked without evaluate=true"
    if config.eval.rank != "validation_loss" and not config.evaluate:
        yield f"eval.rank: there is no {config.eval.rank} without evaluate=true"
    if config.eval.rank == "score" and config.judge.kind == "none":
        yield "eval.rank: there is no score without a judge; add judge=ollama or judge=openai"

    # Settings of what happens during training.
    if config.eval.best != "validation_loss" and config.eval.answers is None:
        yield f"eval.best: there is no {config.eval.best} without answers; add eval.answers=NUMBER"

    # Whether there is something to learn.
    if config.resume is None:
        yield from _path(config.data)
    if config.data.split[0] == 0:
        yield "data.split: a share of 0 for train leaves nothing to learn"
    if config.max_steps == 0:
        yield ("max_steps: 0 would train nothing; expected a number from 1 up, or -1 for no limit")

    # Devices.
    yield from _device(config)
    if config.strategy == "fsdp":
        clashes = {
            "lora": config.lora.kind != "none",
            "compile=true": config.compile,
            "precision=16-mixed": config.precision == "16-mixed",
            "optim.ema": config.optim.ema is not None,
            f"optim.moments={config.optim.moments}": config.optim.moments != "fp32",
        }
        for name, given in clashes.items():
            if given:
                yield f"strategy: fsdp does not go with {name}; leave out one of the two"

    # The average of the weights is kept only where a validation finds it better.
    has_validation = config.data.split[2] > 0 or config.data.validation is not None
    if config.optim.ema is not None and not has_validation:
        yield (
            "optim.ema: validation chooses between plain and averaged weights, but its share in "
            "data.split is 0; raise that share, or leave optim.ema out"
        )


def _evaluate(config: EvaluateConfig) -> Problems:
    if config.checkpoint is not None:
        yield from _path(config.data)
    if config.checkpoint is not None and config.out is None:
        yield "out: missing; checkpoint= has no run folder to write to, so give out=FOLDER"
    if config.checkpoint is None and config.compare is None and config.out is not None:
        yield "out: only for checkpoint= and compare=; a run is evaluated in its own folder"
    if config.compare is not None and not config.compare:
        yield "compare: no run; expected runs or sweeps: compare=[FOLDER,FOLDER]"
    yield from _device(config)


def _device(config: TrainConfig | EvaluateConfig) -> Problems:
    if problem := unfit_precision(config.device, config.precision):
        yield problem
    if config.device == "mps" and config.devices > 1:
        yield f"devices: {config.devices}, but device=mps is one device"


def unfit_precision(device: str, precision: str) -> str | None:
    """Return why a device lacks a precision, or None; `auto` is resolved before it is judged."""
    if device == "cpu" and precision == "16-mixed":
        return "precision: 16-mixed needs a GPU; on the CPU use bf16-mixed or 32"
    if device in ("cuda", "mps") and precision == "int8":
        return f"precision: int8 needs device=cpu; on {device} use bf16-mixed or 32"
    return None


RULES: dict[type, Callable[[Any], Problems]] = {
    DataConfig: _data,
    OptimConfig: _optim,
    LoraConfig: _lora,
    JudgeConfig: _judge,
    GenerateConfig: _generate,
    TrainConfig: _train,
    EvaluateConfig: _evaluate,
}


C = TypeVar("C")


@dataclass(frozen=True)
class Unread(Generic[C]):
    """Keys that are refused on the command line while nothing reads them.

    Attributes:
        keys: names of keys; one that ends in a dot stands for all keys of its group.
        unread: whether nothing reads them, by the config and whether this is a sweep (-m).
        message: why they are not read, and what to do.
        but: names among `keys` that are read nevertheless.
    """

    keys: tuple[str, ...]
    unread: Callable[[C, bool], bool]
    message: str
    but: tuple[str, ...] = ()

    def covers(self, key: str) -> bool:
        return key not in self.but and any(
            key == name or (name[-1] == "." and key.startswith(name)) for name in self.keys
        )


def _is_local(checkpoint: str | None) -> bool:
    name = checkpoint or ""
    return name == "gpt2-nano" or os.path.isdir(os.path.expanduser(name))


UNREAD_BY_BOTH: tuple[Unread[TrainConfig | EvaluateConfig], ...] = (
    Unread(
        ("judge.",),
        lambda config, sweep: config.judge.kind == "none",
        "would not be read without a judge; add judge=ollama or judge=openai",
    ),
    Unread(
        ("data.sample_seed",),
        lambda config, sweep: config.data.sample is None,
        "would not be read without data.sample=NUMBER; add it",
    ),
    Unread(
        ("data.sha256",),
        lambda config, sweep: config.data.sha256 is not None and config.data.url is None,
        "only a download is checked against it; leave it out",
    ),
    Unread(
        ("data.split_seed",),
        lambda config, sweep: (
            config.data.split_by == "order"
            and (config.data.keep == 1 or config.data.keep_by != "random")
        ),
        "nothing is drawn with data.split_by=order; leave it out, or choose another data.split_by",
    ),
    Unread(
        ("data.name", "data.part", "data.revision"),
        lambda config, sweep: config.data.source != "hub",
        "only a data set of the hub has one (data=hub data.path=OWNER/NAME); leave it out",
    ),
    Unread(
        ("data.keep_by",),
        lambda config, sweep: config.data.keep == 1,
        "would not be read without data.keep=SHARE; add it",
    ),
    Unread(
        ("data.split",),
        lambda config, sweep: (
            (config.data.test is not None and config.data.split[1] > 0)
            or (config.data.validation is not None and config.data.split[2] > 0)
        ),
        "a split with a file of its own takes nothing from data.path; give it a share of 0",
    ),
    Unread(
        ("data.prompt_weight",),
        lambda config, sweep: config.data.mask_prompt and config.data.prompt_weight == 1,
        MASKED,
    ),
    Unread(
        ("data.prompt_weight",),
        lambda config, sweep: config.data.prompt == "none",
        "data.prompt=none leaves no prompt to weigh; leave out one of the two",
    ),
    Unread(
        ("data.mask_prompt",),
        lambda config, sweep: config.data.mask_prompt and config.data.prompt == "none",
        "data.prompt=none leaves no prompt to mask; leave out one of the two",
    ),
)

UNREAD_BY_TRAIN: tuple[Unread[TrainConfig], ...] = (
    Unread(
        ("model.revision",),
        lambda config, sweep: (
            config.model.revision is not None and _is_local(config.model.checkpoint)
        ),
        "only a repository of the hub has one; leave it out, or choose another model",
    ),
    Unread(
        ("data.bucket",),
        lambda config, sweep: config.data.bucket and not config.data.shuffle,
        "data.shuffle=false keeps the file's order; leave out one of the two",
    ),
    Unread(
        ("lora.",),
        lambda config, sweep: config.lora.kind == "none",
        "would not be read without an adapter; add lora=default",
    ),
    Unread(
        ("dpo.",),
        lambda config, sweep: config.objective != "dpo",
        "would not be read by objective=sft; add objective=dpo",
    ),
    Unread(
        ("data.mask_prompt", "data.prompt_weight", "data.too_long"),
        lambda config, sweep: config.objective == "dpo",
        "objective=dpo compares the answers alone, cut to data.max_length; leave it out",
    ),
    Unread(
        ("optim.min_lr",),
        lambda config, sweep: config.optim.min_lr > 0 and config.optim.schedule == "constant",
        "would not be read at optim.schedule=constant; add optim.schedule=cosine, linear or wsd",
    ),
    Unread(
        ("eval.split",),
        lambda config, sweep: not config.evaluate,
        "would not be read without evaluate=true; add it",
    ),
    Unread(
        ("eval.answers_every",),
        lambda config, sweep: config.eval.answers is None,
        "would not be read without eval.answers=NUMBER; add it",
    ),
    Unread(
        ("eval.rank",),
        lambda config, sweep: not sweep,
        "orders the table of a sweep, and this is one run; leave it out, or add -m",
    ),
    Unread(
        ("sweep",),
        lambda config, sweep: not sweep,
        "makes several runs of one command; add -m",
    ),
)


def _names_moved_file(data: DataConfig) -> bool:
    return data.path is not None and data.source in ("nano", *OWN_FILES)


def _narrows(generate: GenerateConfig) -> bool:
    return any(value is not None for value in (generate.top_k, generate.top_p, generate.min_p))


ONLY_TRAINING = "only training reads it; leave it out"


def _all_but(*names: str) -> tuple[str, ...]:
    """Return all keys of an evaluation but these."""
    others = [name for name in EvaluateConfig.__dataclass_fields__ if name not in names]
    return tuple(found for name in others for found in (name, f"{name}."))


# Keys of data that decide how an epoch is made of the training records.
ONLY_FOR_EPOCHS = (
    "data.shuffle",
    "data.bucket",
    "data.workers",
    "data.too_long",
    "data.weights",
)

UNREAD_BY_EVALUATE: tuple[Unread[EvaluateConfig], ...] = (
    Unread(
        _all_but("compare", "out"),
        lambda config, sweep: config.compare is not None,
        "evaluations that exist are compared as they are; leave it out",
    ),
    Unread(
        _all_but("labels", "run"),
        lambda config, sweep: config.labels is not None,
        "labels are compared with the evaluation of run= as it is; leave it out",
    ),
    Unread(
        ("revision", "data", "data."),
        lambda config, sweep: config.checkpoint is None,
        "a run is evaluated on its own data and base; other data goes with checkpoint=",
        but=("data", "data.path", "data.test", "data.validation"),
    ),
    Unread(
        ("data", "data.path"),
        lambda config, sweep: config.checkpoint is None and not _names_moved_file(config.data),
        "a run is evaluated on its own data, and data.path= only says where its file is now; other "
        "data goes with checkpoint=",
    ),
    Unread(
        ("revision",),
        lambda config, sweep: config.revision is not None and _is_local(config.checkpoint),
        "only a repository of the hub has one; leave it out, or give a repository as checkpoint=",
    ),
    Unread(
        ("train_records",),
        lambda config, sweep: config.checkpoint is not None,
        "the training records of a checkpoint= are not known; leave it out",
    ),
    Unread(
        (*ONLY_FOR_EPOCHS, "data.drop_empty", "data.keep", "data.keep_by"),
        lambda config, sweep: True,
        ONLY_TRAINING,
    ),
    Unread(
        ("generate.top_k", "generate.top_p", "generate.min_p"),
        lambda config, sweep: config.generate.temperature == 0 and _narrows(config.generate),
        "would not be read at generate.temperature=0, which takes the likeliest token; raise it",
    ),
)

# `python -m sft.data` takes the settings of train.py, and uses those of the records and the model.
UNREAD_BY_DATA: tuple[Unread[TrainConfig], ...] = (
    Unread(
        (
            *(name for name in TrainConfig.__dataclass_fields__ if name not in ("data", "model")),
            *(f"{name}." for name in TrainConfig.__dataclass_fields__ if name != "data"),
            *ONLY_FOR_EPOCHS,
            "data.mask_prompt",
            "data.prompt_weight",
        ),
        lambda config, sweep: True,
        ONLY_TRAINING,
        but=("model.checkpoint", "model.revision"),
    ),
)

SUBJECTS = ("run", "checkpoint", "compare")


def check_given(
    config: TrainConfig | EvaluateConfig,
    overrides: Iterable[str],
    sweep: bool = False,
    also: Iterable[Unread[Any]] = (),
) -> None:
    """Raise InputError for a key that was given on the command line but would not be used.

    Args:
        overrides: as Hydra lists them, such as `lora.rank=4`, `+key=value`, `~key`.
        sweep: whether the command makes several runs (-m).
        also: further rules, for a door that reads fewer keys than train.py or evaluate.py.
    """
    # The config was checked when it was made. Since then, resume=auto has become a run or none.
    check(config)
    given = given_keys(overrides)
    rules: Iterable[Unread[Any]]
    if isinstance(config, TrainConfig):
        rules = (*UNREAD_BY_TRAIN, *UNREAD_BY_BOTH)
    else:
        subjects = [key for key in SUBJECTS if key in given]
        if len(subjects) > 1:
            raise InputError(f"{subjects[0]}: given beside {subjects[1]}=; give one of them")
        rules = (*UNREAD_BY_EVALUATE, *UNREAD_BY_BOTH)

    for rule in (*also, *rules):
        if not rule.unread(config, sweep):
            continue
        for key in given:
            if rule.covers(key):
                raise InputError(f"{key}: {rule.message}")


def given_keys(overrides: Iterable[str]) -> list[str]:
    """Return the keys of Hydra's overrides: `+lora.rank=4` -> `lora.rank`."""
    return [override.lstrip("+~").split("=")[0] for override in overrides]


def check_processes(config: TrainConfig, processes: int) -> None:
    """Raise InputError if the strategy does not go with the number of processes of the run."""
    if config.strategy == "fsdp" and processes == 1:
        raise InputError(
            "strategy: fsdp divides a model among devices, but there is one; add devices=N"
        )


def steps_warning(config: TrainConfig, steps: int) -> str | None:
    """Return a warning if the warm-up does not end within the run, whose steps the plan tells.

    A warning is enough: a recipe with a long warm-up is often tried with a small `max_steps`.
    """
    warmup = config.optim.warmup_steps
    if warmup <= steps:
        return None
    return (
        f"optim.warmup_steps: {warmup}, but the run has {steps} steps, so its learning rate never "
        "reaches optim.lr; lower it, or raise epochs= or max_steps="
    )
