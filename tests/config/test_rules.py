"""Rules between keys: what contradicts, and what would not be read."""

import dataclasses
import re
from pathlib import Path

import pytest

from sft.config import rules
from sft.config.rules import check_given, check_processes, given_keys, steps_warning
from sft.config.schema import EvaluateConfig, TrainConfig
from sft.errors import InputError
from tests.config.composing import composed, keys, refused

# The door, overrides, the key, and words of the message.
CONTRADICTIONS = [
    ("train", "data.split=[0.5,0.5]", "data.split", "2 numbers, expected 3"),
    ("train", "data=file", "data.path", "data.path=FILE"),
    ("train", "data=file data.path=[]", "data.path", "data.path=FILE"),
    ("train", "data=hub", "data.path", "OWNER/NAME"),
    ("train", "data=hub data.path=[a/b,c/d]", "data.path", "OWNER/NAME"),
    (
        "train",
        "data=file data.path=[a,b] data.weights=[1]",
        "data.weights",
        "1 number for 2 entries",
    ),
    ("train", "data=file data.path=a data.weights=[1,2]", "data.weights", "2 numbers for 1 entry "),
    ("train", "data=file data.path=[a,http://b/c]", "data.path", "http://"),
    ("train", "data.test=http://b/c", "data.test", "http://"),
    ("train", "data.split=[0.8,0.1,0.2]", "data.split", "1.1, expected 1"),
    ("train", "data.split=[85,10,5]", "data.split", "100, expected 1"),
    ("train", "data.split=[0,0.5,0.5]", "data.split", "train"),
    ("train", "optim.betas=[0.9]", "optim.betas", "1 numbers, expected 2"),
    ("train", "optim.betas=[0.9,0.9,0.9]", "optim.betas", "3 numbers, expected 2"),
    ("train", "max_steps=0", "max_steps", "-1 for no limit"),
    ("train", "device=cpu precision=16-mixed", "precision", "bf16-mixed or 32"),
    ("evaluate", "device=cpu precision=16-mixed", "precision", "bf16-mixed or 32"),
    ("evaluate", "device=cuda precision=int8", "precision", "int8 needs device=cpu"),
    ("train", "device=mps devices=2", "devices", "device=mps"),
    ("evaluate", "device=mps devices=2", "devices", "device=mps"),
    ("train", "lora=default lora.targets=[]", "lora.targets", "c_attn, c_proj, c_fc"),
    ("train", "strategy=fsdp lora=default", "strategy", "lora"),
    ("train", "strategy=fsdp compile=true", "strategy", "compile=true"),
    ("train", "strategy=fsdp precision=16-mixed", "strategy", "precision=16-mixed"),
    ("train", "judge=ollama", "judge", "evaluate=true"),
    ("train", "eval.rank=loss", "eval.rank", "evaluate=true"),
    ("train", "eval.best=chrf", "eval.best", "eval.answers=NUMBER"),
    ("train", "evaluate=true eval.rank=score", "eval.rank", "judge=ollama or judge=openai"),
    ("train", "data.source=web", "data.url", "data=web"),
    ("train", "data=json", "data.path", "data.path=FILE"),
    ("train", "data=json data.path=", "data.path", "data.path=FILE"),
    ("train", "data=json data.path=https://me:secret@x/y", "data.path", "(https://…)"),
    ("train", "data=json data.path=S3://bucket/mine.json", "data.path", "(s3://…)"),
    ("train", "data=json data.path=file:///mine.json", "data.path", "leave file:// out"),
    ("train", "data.path=/x.json", "data.path", "'/x.json' would not be read by data=nano"),
    ("train", "data.url=http://x/y", "data.url", "'http://x/y' would not be read by data=nano"),
    ("train", "data=json data.path=x data.url=http://x/y", "data.url", "'http://x/y'"),
    ("train", "data=alpaca data.url=http://me:secret@x/y", "data.url", "password"),
    ("train", "data=alpaca data.url=null", "data.url", "data=alpaca"),
    ("train", "data.prompt_weight=0.3", "data.prompt_weight", "data.mask_prompt=false"),
    ("train", "optim.warmup=0.1 optim.warmup_steps=5", "optim.warmup", "give one of them"),
    ("train", "optim.min_lr=1", "optim.min_lr", "optim.lr=0.0001"),
    (
        "train",
        "optim.beta2_half_life=1e6 optim.betas=[0.9,0.95]",
        "optim.betas",
        "optim.beta2_half_life",
    ),
    ("train", "optim.ema=0.99 data.split=[0.9,0.1,0]", "optim.ema", "validation"),
    ("train", "optim.ema=0.99 strategy=fsdp devices=2", "strategy", "optim.ema"),
    ("train", "optim.moments=8bit strategy=fsdp devices=2", "strategy", "optim.moments=8bit"),
    ("evaluate", "checkpoint=x", "out", "out=FOLDER"),
    ("evaluate", "out=x", "out", "checkpoint= and compare="),
    ("evaluate", "compare=[]", "compare", "no run"),
    ("evaluate", "generate.temperature=1e-5", "generate.temperature", "1e-05"),
    ("evaluate", "generate.best_of=4", "generate.best_of", "generate.temperature=0"),
    ("evaluate", "generate.stop=['']", "generate.stop", "empty"),
    ("evaluate", "judge=openai", "judge.model", "judge.model=NAME"),
    ("evaluate", "judge=ollama judge.model=null", "judge.model", "judge.model=NAME"),
    ("evaluate", "judge=ollama judge.url=null", "judge.url", "None"),
    ("evaluate", "judge=ollama judge.url=localhost:11434", "judge.url", "'localhost:11434'"),
    ("evaluate", "judge=ollama judge.url=http://", "judge.url", "'http://'"),
    ("evaluate", "judge=ollama judge.url=http://h:port", "judge.url", "'http://h:port'"),
    ("evaluate", "judge=ollama judge.url=http://me:secret@host", "judge.url", "password"),
    ("evaluate", 'judge=ollama judge.url="http://host/v1?key=secret"', "judge.url", "query"),
    (
        "evaluate",
        "judge=ollama judge.mode=pairwise judge.prompt=published",
        "judge.prompt",
        "strict",
    ),
    ("evaluate", "judge=openai judge.model=m judge.pull=true", "judge.pull", "Ollama"),
    ("evaluate", "judge=openai judge.model=m judge.context=2048", "judge.context", "Ollama"),
]


@pytest.mark.parametrize(("door", "overrides", "key", "words"), CONTRADICTIONS)
def test_keys_that_contradict_are_refused(door: str, overrides: str, key: str, words: str) -> None:
    line = refused(door, *overrides.split())
    assert line.startswith(f"{key}: ")
    assert words in line
    assert "secret" not in line


JSON = "data=json data.path=x.json"
THEIRS = "checkpoint=someone/tiny out=o"
# The door, overrides, the key that nothing would read, and what would make it read.
UNREAD = [
    ("train", "judge.model=x", "judge.model", "judge=ollama"),
    ("train", "evaluate=true judge.audit=3", "judge.audit", "judge=ollama"),
    ("train", "lora.rank=4", "lora.rank", "lora=default"),
    ("train", "++lora.rank=8", "lora.rank", "lora=default"),
    ("train", "eval.split=test", "eval.split", "evaluate=true"),
    ("train", "eval.split=validation", "eval.split", "evaluate=true"),
    ("train", "evaluate=true eval.rank=loss", "eval.rank", "-m"),
    ("train", "eval.rank=validation_loss", "eval.rank", "-m"),
    ("train", "eval.answers_every=3", "eval.answers_every", "eval.answers=NUMBER"),
    ("train", "sweep=grid", "sweep", "-m"),
    ("train", "data.sample_seed=5", "data.sample_seed", "data.sample="),
    ("train", f"{JSON} data.sha256=abc", "data.sha256", "download"),
    ("train", "data.sha256=abc", "data.sha256", "download"),
    ("train", "data.prompt=none data.mask_prompt=true", "data.mask_prompt", "data.prompt=none"),
    ("train", "data.shuffle=false data.bucket=true", "data.bucket", "data.shuffle=false"),
    ("train", "data.split_seed=5", "data.split_seed", "data.split_by=order"),
    ("train", "data.keep_by=longest", "data.keep_by", "data.keep="),
    ("train", "data.part=test", "data.part", "data=hub"),
    ("train", "data=file data.path=a data.revision=main", "data.revision", "data=hub"),
    ("evaluate", f"{THEIRS} data.drop_empty=true", "data.drop_empty", "training"),
    ("train", "data.test=a data.split=[0.8,0.1,0.1]", "data.split", "share of 0"),
    ("train", "data.validation=a data.split=[0.8,0.1,0.1]", "data.split", "share of 0"),
    ("train", "model.revision=main", "model.revision", "hub"),
    ("train", "model.checkpoint=. model.revision=main", "model.revision", "hub"),
    ("evaluate", "judge.model=x", "judge.model", "judge=ollama"),
    ("evaluate", "data=alpaca", "data", "checkpoint="),
    ("evaluate", "data.prompt=phi3", "data.prompt", "checkpoint="),
    ("evaluate", "revision=main", "revision", "checkpoint="),
    ("evaluate", "checkpoint=. out=o revision=main", "revision", "hub"),
    ("evaluate", "checkpoint=gpt2-nano out=o revision=main", "revision", "hub"),
    ("evaluate", f"{THEIRS} train_records=5", "train_records", "checkpoint="),
    ("evaluate", f"{THEIRS} data.shuffle=false", "data.shuffle", "training"),
    ("evaluate", f"{THEIRS} data.bucket=true", "data.bucket", "training"),
    ("evaluate", f"{THEIRS} data.workers=2", "data.workers", "training"),
    ("evaluate", f"{THEIRS} data.sample_seed=2", "data.sample_seed", "data.sample="),
    ("train", "data.prompt_weight=1", "data.prompt_weight", "data.mask_prompt=false"),
    ("train", "dpo.beta=0.2", "dpo.beta", "objective=dpo"),
    ("train", "objective=dpo data.mask_prompt=false", "data.mask_prompt", "objective=dpo"),
    ("train", "optim.min_lr=1e-5", "optim.min_lr", "optim.schedule=constant"),
    ("evaluate", "generate.top_k=5", "generate.top_k", "generate.temperature=0"),
    ("evaluate", "generate.top_p=0.5", "generate.top_p", "generate.temperature=0"),
    ("evaluate", "generate.min_p=0.5", "generate.min_p", "generate.temperature=0"),
    ("evaluate", "compare=[a,b] limit=3", "limit", "leave it out"),
    ("evaluate", "compare=[a,b] judge=ollama", "judge", "leave it out"),
    ("evaluate", "compare=[a,b] generate.top_k=3", "generate.top_k", "leave it out"),
    ("evaluate", "checkpoint=x out=o run=r", "run", "checkpoint="),
    ("evaluate", "compare=[a,b] run=r", "run", "compare="),
]


@pytest.mark.parametrize(("door", "overrides", "key", "words"), UNREAD)
def test_a_given_key_that_nothing_reads_is_refused(
    door: str, overrides: str, key: str, words: str
) -> None:
    config = composed(door, *overrides.split())
    with pytest.raises(InputError) as error:
        check_given(config, overrides.split())
    assert str(error.value).startswith(f"{key}: ")
    assert words in str(error.value)

    # A saved run may have the same value, which was not given on this command line.
    check_given(config, [])


READ = [
    ("train", "judge=ollama evaluate=true judge.model=x"),
    ("train", "judge=none"),
    ("train", "lora=none"),
    ("train", "lora=default lora.rank=4"),
    ("train", "data.split_by=random data.split_seed=5"),
    ("train", "data.test=a data.split=[0.9,0,0.1]"),
    ("train", "evaluate=true eval.split=test"),
    ("train", "data.sample=9 data.sample_seed=5"),
    ("train", "data=alpaca data.sha256=abc"),
    ("train", f"{JSON} data.sha256=null"),
    ("train", "data.prompt=none data.mask_prompt=false"),
    ("train", "data.bucket=true"),
    ("train", "data.bucket=false data.shuffle=false"),
    ("train", "model=gpt2-small model.revision=main"),
    ("train", "model.revision=null"),
    ("evaluate", "run=r train_records=5"),
    ("evaluate", f"{THEIRS} revision=main data.sample=3 data.mask_prompt=true"),
    ("train", "optim.min_lr=1e-5 optim.schedule=wsd optim.warmup=0.1"),
    ("train", "data.prompt_weight=0.3 data.mask_prompt=false"),
    ("train", "data.prompt_weight=0"),
    ("train", "objective=dpo dpo.beta=0.2 dpo.loss=ipo"),
    ("train", "optim.beta2_half_life=1e6 optim.betas=[0.8,0.999]"),
    ("evaluate", "generate.top_k=5 generate.temperature=0.7 seed=1"),
    ("evaluate", "compare=[a,b] out=o"),
]


@pytest.mark.parametrize(("door", "overrides"), READ)
def test_a_key_that_is_read_is_taken(door: str, overrides: str) -> None:
    check_given(composed(door, *overrides.split()), overrides.split())


@pytest.mark.parametrize("overrides", ["evaluate=true eval.rank=loss", "sweep=grid"])
def test_a_sweep_takes_the_keys_of_sweeps(overrides: str) -> None:
    check_given(composed("train", *overrides.split()), overrides.split(), sweep=True)


def test_keys_of_overrides() -> None:
    overrides = ["lora.rank=4", "+a.b=c=d", "++x=1", "~data.url"]
    assert given_keys(overrides) == ["lora.rank", "a.b", "x", "data.url"]


def test_the_tables_name_only_keys_that_exist() -> None:
    tables = (
        (rules.UNREAD_BY_TRAIN, (TrainConfig,)),
        (rules.UNREAD_BY_DATA, (TrainConfig,)),
        (rules.UNREAD_BY_EVALUATE, (EvaluateConfig,)),
        (rules.UNREAD_BY_BOTH, (TrainConfig, EvaluateConfig)),
    )
    for table, doors in tables:
        for rule in table:
            for key in set(rule.keys) - {"sweep"}:
                name = key.rstrip(".")
                for door in doors:
                    known = keys(door)
                    assert any(one == name or one.startswith(f"{name}.") for one in known), key


def test_no_message_stands_twice() -> None:
    text = Path(rules.__file__).read_text(encoding="utf-8")
    messages = re.findall(r'yield f?"(.*)"', text) + [
        rule.message
        for table in (rules.UNREAD_BY_BOTH, rules.UNREAD_BY_TRAIN, rules.UNREAD_BY_EVALUATE)
        for rule in table
    ]
    assert len(messages) > 25
    assert len(set(messages)) == len(messages)


def test_fsdp_needs_several_processes() -> None:
    config = composed("train", "strategy=fsdp")
    with pytest.raises(InputError, match=r"^strategy: fsdp .*devices=N"):
        check_processes(config, 1)
    check_processes(config, 2)
    check_processes(composed("train", "strategy=ddp"), 1)


def test_a_warm_up_longer_than_the_run_is_warned_of() -> None:
    config = composed("train", "optim.warmup_steps=30")
    assert steps_warning(config, 30) is None
    warning = steps_warning(config, 29)
    assert warning is not None
    assert warning.startswith("optim.warmup_steps: 30")
    assert "29" in warning
    none = dataclasses.replace(config, optim=dataclasses.replace(config.optim, warmup_steps=0))
    assert steps_warning(none, 0) is None
