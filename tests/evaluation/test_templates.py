"""The same model in other templates, apart from its own numbers."""

import json
from pathlib import Path
from typing import Any

import pytest

from sft.config.schema import DataConfig, EvaluateConfig, GenerateConfig
from sft.errors import InputError
from sft.evaluation.run import evaluate
from sft.evaluation.templates import OWN, read_template
from sft.launch import on_devices
from sft.prompts import PROMPTS
from tests.evaluation.conftest import TEMPLATE


def run(folder: Path, **settings: Any) -> None:
    generate = GenerateConfig(max_new_tokens=3)
    config = EvaluateConfig(
        DataConfig(), generate, run=str(folder), device="cpu", precision="32", limit=6, **settings
    )
    evaluate(config, [], lambda _: None, on_devices)


def test_other_templates_are_measured_apart_from_the_models_own_numbers(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    evaluation = run_folder / "evaluation"
    run(run_folder)
    plain = {path.name: path.read_text() for path in evaluation.glob("*.jsonl")}

    short = tmp_path / "short.jinja"
    short.write_text("{{ instruction }} {{ input }}=\n")
    caplog.set_level("INFO")
    run(run_folder, templates=[str(short)])
    assert {path.name: path.read_text() for path in evaluation.glob("*.jsonl")} == plain

    found = json.loads((evaluation / "templates" / "templates.json").read_text())
    own, other = (found["templates"][name] for name in (OWN, str(short)))
    summary = json.loads((evaluation / "summary.json").read_text())
    assert own["means"]["loss"] == summary["tuned"]["loss"]
    assert own["template"] == TEMPLATE
    assert other["means"]["loss"] != own["means"]["loss"]
    assert other["template"] == "{{ instruction }} {{ input }}="
    assert other["against_own"]["loss"]["difference"] == pytest.approx(
        other["means"]["loss"] - own["means"]["loss"]
    )
    ends = found["ranges"]["loss"]
    assert ends == sorted([own["means"]["loss"], other["means"]["loss"]])
    text = caplog.text
    assert f"{ends[1] - ends[0]:.3f}" in text
    assert f"{other['means']['loss']:.3f}" in text


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "is for plain text"),
        ("alpacca", "neither a template"),
        ("own.jinja", "the model's own"),
        ("broken.jinja", "nothing_known"),
        ("long.jinja", "none of the 6 records"),
    ],
)
def test_a_template_that_cannot_ask_is_refused_before_anything_is_answered(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.jinja").write_text(f"{TEMPLATE}\n")
    Path("broken.jinja").write_text("{{ nothing_known }}")
    Path("long.jinja").write_text("word " * 100 + "{{ instruction }}")
    with pytest.raises(InputError, match=f"^templates: {name}.*{message}") as error:
        run(run_folder, templates=[name])
    assert "\n" not in str(error.value)
    assert not (run_folder / "evaluation").exists()


def test_a_name_is_a_template_and_a_file_loses_its_last_line_break_alone(tmp_path: Path) -> None:
    assert read_template("phi3") == PROMPTS["phi3"]
    file = tmp_path / "t.jinja"
    file.write_text("{{ instruction }}\n\n")
    assert read_template(str(file)) == "{{ instruction }}\n"
