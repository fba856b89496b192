"""The base of a checkpoint, which chat, server and evaluation find by the same rule."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sft.checkpoint.base import base_of
from sft.checkpoint.folder import Pretrained, load_pretrained, save_pretrained
from sft.config.schema import DataConfig, EvaluateConfig, GenerateConfig
from sft.errors import InputError
from sft.evaluation import setup
from sft.inference.models import ChatModel, Placement, load_base
from sft.summaries import FORMER_NANO, write_run_summary
from tests.summaries import run_summary

# Calls the rule as one of its users does, with a checkpoint's folder and a function that loads.
Find = Callable[[Path, Callable[..., Pretrained]], object]


@pytest.fixture
def model(tmp_path: Path, checkpoint: Path) -> Path:
    """The model of a run on the tiny checkpoint, whose weights it changed."""
    tiny = load_pretrained(checkpoint)
    tiny.model.ln_f.bias.data += 0.1
    folder = tmp_path / "run" / "model"
    save_pretrained(tiny.model, folder, tiny.tokenizer, "Q: {{ instruction }}", str(checkpoint))
    return folder


@pytest.fixture(params=["chat", "evaluation"])
def find(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Find:
    def in_chat(folder: Path, load: Callable[..., Pretrained]) -> object:
        tuned = ChatModel(load_pretrained(folder), "x")
        monkeypatch.setattr(Placement, "load", lambda _, *named: load(*named))
        return load_base(tuned, Placement("cpu", "32-true"))

    def in_evaluation(folder: Path, load: Callable[..., Pretrained]) -> object:
        def load_either(name: str, revision: str | None = None) -> Pretrained:
            return load_pretrained(name) if name == str(folder) else load(name, revision)

        monkeypatch.setattr(setup, "check_model", load_either)
        config = EvaluateConfig(
            DataConfig(), GenerateConfig(), checkpoint=str(folder), out=str(tmp_path / "out")
        )
        found = setup.setup_of_checkpoint(config)
        if found.no_base:
            raise InputError(found.no_base)
        return found.models["base"]

    return in_chat if request.param == "chat" else in_evaluation


def loaded_revision(find: Find, model: Path, checkpoint: Path) -> str | None:
    """Find the base of a model; return the revision that was loaded."""
    loaded = []

    def load(name: str, revision: str | None) -> Pretrained:
        loaded.append((name, revision))
        return load_pretrained("gpt2-nano")

    find(model, load)
    [(name, revision)] = loaded
    assert name == str(checkpoint)
    return revision


def write_summary(model: Path, source: str) -> None:
    used = {"source": source, "revision": "abc", "sha256": "cd" * 32}
    write_run_summary(model.parent, run_summary(checkpoint=used))


def test_the_base_is_loaded_at_the_commit_of_the_run(
    find: Find, model: Path, checkpoint: Path
) -> None:
    write_summary(model, str(checkpoint))
    assert loaded_revision(find, model, checkpoint) == "abc"


def test_the_commit_of_another_checkpoint_is_not_taken(
    find: Find, model: Path, checkpoint: Path
) -> None:
    write_summary(model, "another/checkpoint")
    assert loaded_revision(find, model, checkpoint) is None


def test_without_a_summary_the_newest_commit_is_loaded(
    find: Find, model: Path, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert loaded_revision(find, model, checkpoint) is None
    assert caplog.messages == []


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"checkpoint": {"revision": "abc"}}'])
def test_a_broken_summary_is_warned_of_and_the_newest_commit_loaded(
    find: Find, model: Path, checkpoint: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    (model.parent / "summary.json").write_text(content)
    assert loaded_revision(find, model, checkpoint) is None
    [message] = caplog.messages
    assert str(model.parent / "summary.json") in message


def test_a_base_that_cannot_be_loaded_is_refused_by_name(find: Find, model: Path) -> None:
    def fail(name: str, revision: str | None) -> Pretrained:
        raise InputError(f"{name}: damaged")

    with pytest.raises(InputError, match=rf"{model}.*cannot be loaded: .*: damaged"):
        find(model, fail)


def test_a_base_with_the_same_weights_is_refused(find: Find, model: Path) -> None:
    with pytest.raises(InputError, match=f"{model}.*same weights"):
        find(model, lambda *_: load_pretrained(model))


def test_the_base_of_a_run_of_a_former_nano_is_refused(
    find: Find, model: Path, checkpoint: Path
) -> None:
    former = {"source": str(checkpoint), "revision": None, "sha256": next(iter(FORMER_NANO))}
    write_run_summary(model.parent, run_summary(checkpoint=former))
    with pytest.raises(InputError, match=r"gpt2-nano of sft 0\.1\.0"):
        find(model, lambda *_: load_pretrained(checkpoint))


def test_a_model_that_names_no_base_has_none() -> None:
    with pytest.raises(InputError, match="gpt2-nano does not name its base"):
        base_of(load_pretrained("gpt2-nano"), load_pretrained)
