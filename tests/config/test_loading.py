"""What the loader takes, and what it refuses by key."""

import dataclasses
import re
from typing import Any

import pytest

from sft.config.loading import flat, from_dict, likely_key
from sft.config.schema import JudgeConfig, TrainConfig
from sft.errors import InputError
from tests.config.composing import composed, refused


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("optim.lr=1", "optim.lr", 1.0),
        ("optim.lr=1e-4", "optim.lr", 1e-4),
        ("precision=32", "precision", "32"),
        ("model.checkpoint=12", "model.checkpoint", "12"),
        ("model.revision=main", "model.revision", "main"),
        ("'model.revision=\"607e30\"'", "model.revision", "607e30"),
        ("optim.grad_clip=null", "optim.grad_clip", None),
        ("optim.grad_clip=1", "optim.grad_clip", 1.0),
        ("data.max_length=null", "data.max_length", None),
        ("data.split=[1,0,0]", "data.split", [1.0, 0.0, 0.0]),
        ("data.split=[0.1,0.2,0.7]", "data.split", [0.1, 0.2, 0.7]),
        ("data.sample_seed=-1", "data.sample_seed", -1),
        ("max_steps=-1", "max_steps", -1),
        ("model.dropout=0", "model.dropout", 0.0),
        ("optim.betas=[0,0.5]", "optim.betas", [0.0, 0.5]),
        ("eval.sample=false", "eval.sample", False),
        ("eval.every=0", "eval.every", 0),
        ("seed=0", "seed", 0),
    ],
)
def test_a_value_is_converted_only_if_nothing_is_lost(
    override: str, key: str, expected: Any
) -> None:
    config = composed("train", override.strip("'"))
    found = flat(dataclasses.asdict(config))[key]
    assert found == expected
    assert type(found) is type(expected)


# The key, values out of its range, and what is expected instead.
RANGES = [
    ("batch_size", ("0", "-1"), "at least 1"),
    ("accumulate", ("0",), "at least 1"),
    ("epochs", ("0", "-3"), "at least 1"),
    ("devices", ("0",), "at least 1"),
    ("seed", ("-1",), "at least 0"),
    ("max_steps", ("-2",), "at least -1"),
    ("optim.lr", ("0", "-1e-4"), "more than 0"),
    ("optim.weight_decay", ("-0.1",), "at least 0"),
    ("optim.warmup_steps", ("-1",), "at least 0"),
    ("optim.grad_clip", ("0", "-1"), "more than 0"),
    ("optim.betas", ("[-0.1,0.9]",), "at least 0"),
    ("optim.betas", ("[0.9,1]", "[1.5,0.9]"), "less than 1"),
    ("model.dropout", ("-0.1",), "at least 0"),
    ("model.dropout", ("1", "1.5"), "less than 1"),
    ("data.sample", ("0", "-5"), "at least 1"),
    ("data.max_length", ("1", "0", "-1"), "at least 2"),
    ("data.workers", ("-1",), "at least 0"),
    ("data.split", ("[1.1,-0.1,0]",), "at least 0"),
    ("eval.every", ("-1",), "at least 0"),
    ("lora.rank", ("0", "-1"), "at least 1"),
    ("lora.alpha", ("0", "-16"), "more than 0"),
    ("lora.dropout", ("-0.1",), "at least 0"),
    ("lora.dropout", ("1",), "less than 1"),
    ("eval.batches", ("0",), "at least 1"),
]


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [(key, value, expected) for key, values, expected in RANGES for value in values],
)
def test_a_number_out_of_range_is_refused_by_train(key: str, value: str, expected: str) -> None:
    line = refused("train", f"{key}={value}")
    assert re.match(rf"{key}: \S+ .*{expected}$", line)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("batch_size", "0", "at least 1"),
        ("limit", "0", "at least 1"),
        ("seed", "-1", "at least 0"),
        ("generate.max_new_tokens", "0", "at least 1"),
        ("generate.temperature", "-0.5", "at least 0"),
        ("generate.top_k", "0", "at least 1"),
        ("judge.audit", "-1", "at least 0"),
        ("judge.min_coverage", "-0.1", "at least 0"),
        ("judge.min_coverage", "1.1", "at most 1"),
        ("judge.concurrency", "0", "at least 1"),
        ("judge.concurrency", "257", "at most 256"),
        ("judge.timeout", "0", "more than 0"),
        ("judge.timeout", "1e6", "at most 86400"),
        ("judge.retries", "-1", "at least 0"),
        ("judge.retries", "101", "at most 100"),
        ("judge.context", "512", "at least 1024"),
        ("judge.seed", "-1", "at least 0"),
    ],
)
def test_a_number_out_of_range_is_refused_by_evaluate(key: str, value: str, expected: str) -> None:
    line = refused("evaluate", f"{key}={value}")
    assert re.match(rf"{key}: \S+ .*{expected}$", line)


# Overrides, the key, what the message quotes, and what was expected.
WRONG = [
    ("optim.lr=nan", "optim.lr", "nan", "finite"),
    ("optim.lr=inf", "optim.lr", "inf", "finite"),
    ("data.split=[nan,0.5,0.5]", "data.split", "nan", "finite"),
    ("optim.lr=fast", "optim.lr", "'fast'", "a number"),
    ("optim.lr=true", "optim.lr", "True", "a number"),
    ("optim.lr=null", "optim.lr", "None", "a number"),
    ("batch_size=8.0", "batch_size", "8.0", "a whole number"),
    ("batch_size=eight", "batch_size", "'eight'", "a whole number"),
    ("batch_size=true", "batch_size", "True", "a whole number"),
    ("batch_size=[8]", "batch_size", "[8]", "a whole number"),
    ("batch_size={a:1}", "batch_size", "{'a': 1}", "a whole number"),
    ("data.max_length=", "data.max_length", "''", "a whole number"),
    ("compile=1", "compile", "1", "true or false"),
    ("eval.sample=ja", "eval.sample", "'ja'", "true or false"),
    ("model.checkpoint=true", "model.checkpoint", "True", "text"),
    ("model.checkpoint=null", "model.checkpoint", "None", "text"),
    ("model.revision=607e30", "model.revision", "6.07e+32", "text"),
    ("precision=32.0", "precision", "32.0", "text"),
    ("data.split=0.5", "data.split", "0.5", "a list"),
    ("data.split=[a,b,c]", "data.split", "'a'", "a number"),
    ("data.split=[0.5,null,0.5]", "data.split", "None", "a number"),
    ("optim=3", "optim", "3", "a group of keys"),
    ("eval=null", "eval", "None", "a group of keys"),
    ("device=gpu", "device", "'gpu'", "auto, cpu, cuda, mps"),
    ("device=null", "device", "null", "cpu"),
    ("precision=16", "precision", "'16'", "auto, 32, bf16-mixed, 16-mixed"),
    ("precision=int8", "precision", "'int8'", "auto, 32, bf16-mixed, 16-mixed"),
    ("strategy=zero", "strategy", "'zero'", "auto, ddp, fsdp"),
    ("optim.schedule=step", "optim.schedule", "'step'", "constant, cosine"),
    ("data.prompt=chat", "data.prompt", "'chat'", "alpaca, alpaca-stanford, phi3, chatml, none"),
    ("lora=default lora.kind=ia3", "lora.kind", "'ia3'", "none, default"),
    ("lora=default lora.targets=c_fc", "lora.targets", "'c_fc'", "a list"),
    (
        "lora=default lora.targets=[c_attn,q_proj]",
        "lora.targets",
        "'q_proj'",
        "c_attn, c_proj, c_fc",
    ),
    (
        "judge=ollama evaluate=true judge.kind=oracle",
        "judge.kind",
        "'oracle'",
        "none, ollama, openai",
    ),
]


@pytest.mark.parametrize(("overrides", "key", "found", "expected"), WRONG)
def test_a_wrong_value_is_named_with_its_key(
    overrides: str, key: str, found: str, expected: str
) -> None:
    line = refused("train", *overrides.split())
    assert line.startswith(f"{key}: ")
    assert found in line
    assert expected in line.removeprefix(f"{key}: ")


@pytest.mark.parametrize(
    ("overrides", "key", "expected"),
    [
        ("split=dev", "split", "'dev'; expected one of test, validation, train"),
        ("judge.mode=null", "judge.mode", "'null'; expected one of score, pairwise"),
        ("judge.mode=pairs", "judge.mode", "'pairs'; expected one of score, pairwise"),
        ("judge.prompt=book", "judge.prompt", "'book'; expected one of strict, published, short"),
    ],
)
def test_evaluate_names_the_options(overrides: str, key: str, expected: str) -> None:
    line = refused("evaluate", overrides)
    assert line.startswith(f"{key}: ")
    assert expected in line


@pytest.mark.parametrize(
    ("door", "override", "key", "known"),
    [
        ("train", "+optim.lrr=1", "optim.lrr", "lr, weight_decay, betas, beta2_half_life"),
        ("train", "+data.bz=3", "data.bz", "url, sha256, licence, "),
        ("train", "+a.b=1", "a", "model, data, optim, eval, "),
        ("evaluate", "+generate.top_q=1", "generate.top_q", "max_new_tokens, temperature, top_k"),
        ("evaluate", "+model.dropout=0", "model", "data, generate, run, "),
        ("evaluate", "+judge.temperature=1", "judge.temperature", "kind, model, url, "),
    ],
)
def test_an_unknown_key_is_named_with_its_neighbours(
    door: str, override: str, key: str, known: str
) -> None:
    line = refused(door, override)
    assert line.startswith(f"{key}: ")
    assert known in line


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.checkpoint=???", "model.checkpoint"),
        ("batch_size=???", "batch_size"),
        ("~model.checkpoint", "model.checkpoint"),
        ("~optim", "optim"),
    ],
)
def test_a_missing_key_is_named_with_how_to_give_it(override: str, key: str) -> None:
    line = refused("train", override)
    assert line.startswith(f"{key}: missing")
    assert f"{key}=..." in line


def test_a_broken_interpolation_is_named_with_its_key() -> None:
    line = refused("train", "data.path=${nope}")
    assert line.startswith("data.path: ")
    assert "'nope'" in line


def test_a_number_longer_than_a_double_is_still_a_number() -> None:
    assert composed("train", f"optim.lr={10**400}").optim.lr == 2.0**1023


def test_a_config_survives_the_trip_through_plain_values() -> None:
    config = composed("train", "experiment=alpaca-1k", "optim.grad_clip=1", "seed=7")
    assert from_dict(TrainConfig, dataclasses.asdict(config)) == config


def test_a_saved_config_without_newer_keys_loads_with_their_defaults() -> None:
    saved = {"model": {"checkpoint": "gpt2-nano"}, "data": {}, "optim": {"lr": 1e-3}, "eval": {}}
    config = from_dict(TrainConfig, saved)
    assert (config.optim.lr, config.batch_size, config.judge) == (1e-3, 8, JudgeConfig())


def test_a_saved_key_that_is_unknown_is_refused() -> None:
    saved = {"model": {"checkpoint": "gpt2-nano"}, "data": {"colour": 1}, "optim": {}, "eval": {}}
    with pytest.raises(InputError, match=r"^data\.colour: "):
        from_dict(TrainConfig, saved)


@pytest.mark.parametrize(
    "changed",
    [
        {"eval": {"split": "test"}},  # without evaluate=true
        {"data": {"sample_seed": 5}},
        {"data": {"mask_prompt": True, "prompt": "none"}},
        {"optim": {"warmup_steps": 10**6}},
        {"lora": {"rank": 2}},
    ],
)
def test_a_run_saved_before_a_key_was_refused_still_loads(changed: dict[str, Any]) -> None:
    saved = dataclasses.asdict(composed("train"))
    for group, values in changed.items():
        saved[group] |= values
    assert dataclasses.asdict(from_dict(TrainConfig, saved)) == saved


@pytest.mark.parametrize(
    ("given", "likely"),
    [
        ("batchsize", "batch_size"),
        ("epoch", "epochs"),
        ("lr", "optim.lr"),
        ("optim.lrr", "optim.lr"),
        ("model.chekpoint", "model.checkpoint"),
        ("spllit", "split"),
        ("colour", None),
    ],
)
def test_a_misspelt_key_gets_the_likely_one(given: str, likely: str | None) -> None:
    assert likely_key(given) == likely
