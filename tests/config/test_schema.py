"""conf/ and the dataclasses say the same, and every number has its range."""

import dataclasses
import re
import typing
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt
from hydra import compose
from omegaconf import OmegaConf

from sft.config.help import all_comments, comments
from sft.config.loading import flat
from sft.config.schema import (
    LORA_TARGETS,
    CheckpointConfig,
    DataConfig,
    EvalConfig,
    EvaluateConfig,
    GenerateConfig,
    JudgeConfig,
    LoraConfig,
    LoraTarget,
    ModelConfig,
    OneOf,
    OptimConfig,
    TrainConfig,
)
from tests.config.composing import CONF, KINDS, composed, keys

CONFIGS = (
    ModelConfig,
    DataConfig,
    OptimConfig,
    EvalConfig,
    CheckpointConfig,
    TrainConfig,
    GenerateConfig,
    EvaluateConfig,
    JudgeConfig,
    LoraConfig,
)
ANY_NUMBER = {"sample_seed"}


def parts(hint: Any) -> list[Any]:
    """Return a type annotation, and all that it is made of."""
    found = [hint]
    if typing.get_origin(hint) is not Literal:
        for part in typing.get_args(hint):
            found += parts(part)
    return found


def leaves() -> dict[tuple[str, str], Any]:
    """Return the annotation of every key, by its door and dotted name."""

    def within(kind: type, where: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, hint in typing.get_type_hints(kind, include_extras=True).items():
            if dataclasses.is_dataclass(hint):
                found |= within(typing.cast(type, hint), f"{where}{name}.")
            else:
                found[where + name] = hint
        return found

    return {(door, key): hint for door in KINDS for key, hint in within(KINDS[door], "").items()}


LEAVES = leaves()


@pytest.mark.parametrize("door", KINDS)
def test_every_key_is_in_conf_and_in_a_dataclass(door: str) -> None:
    values: Any = OmegaConf.to_container(compose(door, ["data=nano"]))
    assert flat(values).keys() == keys(KINDS[door])


@pytest.mark.parametrize("door", KINDS)
def test_every_key_has_a_comment_in_conf(door: str) -> None:
    found = all_comments(CONF, door)
    assert keys(KINDS[door]) <= found.keys()
    assert all(re.match(r"\S.{10,}", found[key]) for key in keys(KINDS[door]))


@pytest.mark.parametrize("file", ["train", "evaluate", "data", "judge", "lora"])
def test_conf_comments_no_key_that_is_gone(file: str) -> None:
    kinds = KINDS | {"data": DataConfig, "judge": JudgeConfig, "lora": LoraConfig}
    groups = {"optim", "eval", "model", "checkpoint", "generate", "dpo"}
    assert comments(CONF / f"{file}.yaml").keys() - groups <= keys(kinds[file])


def test_comments_list_the_options() -> None:
    seen = 0
    for (door, key), hint in LEAVES.items():
        comment = f": {all_comments(CONF, door)[key]}"
        for part in parts(hint):
            options = typing.get_args(part) if typing.get_origin(part) is Literal else ()
            options = tuple(part.options) if isinstance(part, OneOf) else options
            for option in options:
                text = rf"(^|[|:,]|and)\s*({option} \w+ )?{re.escape(option)}\b"
                assert re.search(text, comment), (key, option)
                seen += 1
    assert seen > 40


def test_every_number_has_its_range() -> None:
    for (_, key), hint in LEAVES.items():
        found = parts(hint)
        if {int, float} & set(filter(lambda part: isinstance(part, type), found)):
            limited = any(isinstance(part, Ge | Gt) for part in _limits(hint))
            assert limited or key.rpartition(".")[2] in ANY_NUMBER, key


def _limits(hint: Any) -> list[Any]:
    return [limit for part in parts(hint) for limit in getattr(part, "__metadata__", ())]


def test_a_number_without_a_range_would_be_seen() -> None:
    assert _limits(Annotated[int, Ge(0)] | None) == [Ge(0)]
    assert _limits(list[Annotated[float, Gt(0)]]) == [Gt(0)]
    assert _limits(int | None) == []


def test_the_layers_that_take_an_adapter_are_named_once() -> None:
    assert typing.get_args(LoraTarget) == LORA_TARGETS


def test_defaults_are_the_same_in_conf_and_in_the_dataclasses() -> None:
    config = composed(
        "train", "model=gpt2-small", "data=nano", "recipe=none", "model.checkpoint=x/y"
    )
    data = DataConfig(licence="apache-2.0")
    assert config == TrainConfig(ModelConfig("x/y"), data, OptimConfig(), EvalConfig())
    evaluated = composed("evaluate", "run=null")
    assert evaluated == EvaluateConfig(data, GenerateConfig())


def test_a_choice_says_in_its_first_line_what_it_is() -> None:
    for folder in ("data", "model", "experiment", "judge", "lora", "recipe", "sweep"):
        for path in (CONF / folder).glob("*.yaml"):
            lines = [
                line for line in path.read_text().splitlines() if not line.startswith("# @package")
            ]
            assert re.match(r"# \S", lines[0]), path


def test_paths_hold_from_anywhere(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    (tmp_path / "mine").mkdir()
    assert DataConfig(source="json", path="a.json").path == str(tmp_path / "a.json")
    assert DataConfig(source="json", path="~/a.json").path == "/home/me/a.json"
    assert ModelConfig("mine").checkpoint == str(tmp_path / "mine")
    assert ModelConfig("someone/tiny").checkpoint == "someone/tiny"


def test_a_run_does_not_become_its_own_base_through_a_link(tmp_path: Any) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "latest").symlink_to("one")
    assert ModelConfig(str(tmp_path / "latest")).checkpoint == str(tmp_path / "one")
