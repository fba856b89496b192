import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft.config.schema import DataConfig, EvaluateConfig, GenerateConfig
from sft.data.records import Record
from sft.errors import InputError
from sft.evaluation.exam import prepare
from sft.evaluation.subject import look_at, subject_of_checkpoint, subject_of_run
from sft.prompts import PROMPTS


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_run_brings_model_base_template_and_records(run_folder: Path, tmp_path: Path) -> None:
    subject = subject_of_run(str(run_folder))
    assert {name: model.source for name, model in subject.models.items()} == {
        "tuned": str(run_folder / "model"),
        "base": str(tmp_path / "base"),
    }
    assert subject.models["tuned"].model.wte.weight.is_meta
    assert subject.template == "Q: {{ instruction }} {{ input }}\nA: "
    assert subject.folder == run_folder / "evaluation"
    assert [record.output for record in subject.records("test", None)] == [
        str(n + 1) for n in range(8, 18)
    ]
    assert [record.output for record in subject.records("test", 2)] == ["9", "10"]
    assert len(subject.records("validation", 99)) == 2


def test_latest_is_followed_once(run_folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to("run")
    assert subject_of_run(str(link)).folder == run_folder / "evaluation"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("summary.json", None, r"run: .*run is no finished run \(it has no summary.json\)"),
        ("summary.json", "{", "summary.json: not the summary of a run of train.py"),
        ("summary.json", "[]", "summary.json: not the summary of a run of train.py"),
        ("summary.json", '{"config": {}}', r"summary.json: not the summary.*\(status: missing\)"),
        ("model/config.json", None, r"model: no config\.json"),
        ("model/model.safetensors", "<html>", "model.safetensors: a web page"),
        ("../data.json", "[]", "data.json: an empty array"),
        (
            "../data.json",
            '[{"instruction": "a", "output": "b"}]',
            r"data.json: changed since .*run was trained on it",
        ),
        ("../base/merges.txt", None, r"base: no merges\.txt"),
    ],
)
def test_what_a_run_may_lack(
    run_folder: Path, file: str, content: str | None, message: str
) -> None:
    (run_folder / file).unlink() if content is None else (run_folder / file).write_text(content)
    with pytest.raises(InputError, match=message):
        subject_of_run(str(run_folder))


def test_no_run_and_an_unfinished_run(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"run: .*nowhere is not there; train first \(python train.py\)"
    ):
        subject_of_run(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="run: missing"):
        subject_of_run(None)
    (run_folder / "summary.json").unlink()
    (run_folder / "checkpoints").mkdir()
    (run_folder / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(
        InputError, match=r"is no finished run .*; python train.py resume=.*run goes on"
    ):
        subject_of_run(str(run_folder))


def test_a_base_with_other_weights(
    run_folder: Path, tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    make_checkpoint(tmp_path / "base", seed=9)
    with pytest.raises(InputError, match=r"base: other weights than those that .*run began with"):
        subject_of_run(str(run_folder))


def test_a_run_on_records_with_a_key_like_one_that_is_absent(run_folder: Path, data: Path) -> None:
    records = json.loads(data.read_text())
    data.write_text(
        json.dumps([{"Category": record.pop("category", ""), **record} for record in records])
    )
    summary = json.loads((run_folder / "summary.json").read_text())
    sha256 = hashlib.sha256(data.read_bytes()).hexdigest()
    change(run_folder / "summary.json", data=summary["data"] | {"sha256": sha256})
    subject = subject_of_run(str(run_folder))
    assert subject.source.unused["Category"] == len(records)
    with pytest.raises(InputError, match=r"'Category' is not read; rename it to 'category'"):
        subject_of_checkpoint(of_checkpoint(run_folder / "model", data))


def test_an_empty_split(run_folder: Path) -> None:
    summary = json.loads((run_folder / "summary.json").read_text())
    summary["config"]["data"]["split"] = [0.9, 0.0, 0.1]
    change(run_folder / "summary.json", **summary)
    with pytest.raises(InputError, match=r"split: .*\[0.9, 0.0, 0.1\] leaves no record for test"):
        subject_of_run(str(run_folder)).records("test", None)


def of_checkpoint(
    folder: Path, data: Path, prompt: str = "alpaca", out: Path | None = None
) -> EvaluateConfig:
    choices = DataConfig("json", str(data), prompt=prompt)
    return EvaluateConfig(
        choices, GenerateConfig(), checkpoint=str(folder), out=str(out or folder.parent / "out")
    )


def test_a_checkpoint_brings_its_base_and_template(
    run_folder: Path, data: Path, tmp_path: Path
) -> None:
    subject = subject_of_checkpoint(of_checkpoint(run_folder / "model", data))
    assert subject.models["base"].source == str(tmp_path / "base")
    assert subject.alone is None
    assert subject.template.startswith("Q: ")
    assert subject.folder == run_folder / "out"


def test_a_checkpoint_without_a_base_stands_alone(
    tmp_path: Path, data: Path, make_checkpoint: Callable
) -> None:
    first = make_checkpoint(tmp_path / "first", seed=4)
    again = make_checkpoint(tmp_path / "again", seed=4, base=str(first))
    lost = make_checkpoint(tmp_path / "lost", seed=4, base="/lost/base")
    reasons = [
        (first, "does not name its base"),
        (again, "first, has the same weights"),
        (lost, "cannot be loaded: /lost/base: no such"),
    ]
    for folder, reason in reasons:
        subject = subject_of_checkpoint(of_checkpoint(folder, data, prompt="phi3"))
        assert list(subject.models) == ["tuned"]
        assert reason in (subject.alone or "")
        assert subject.template == PROMPTS["phi3"]


def test_plain_text_cannot_be_asked(tmp_path: Path, data: Path, make_checkpoint: Callable) -> None:
    with pytest.raises(InputError, match=r"data.prompt: .* was trained on plain text"):
        subject_of_checkpoint(
            of_checkpoint(make_checkpoint(tmp_path / "plain", seed=4), data, prompt="none")
        )


def test_results_do_not_go_into_the_folder_of_a_run(run_folder: Path, data: Path) -> None:
    with pytest.raises(
        InputError, match=r"out: .*run holds a summary.json that is not of an evaluation"
    ):
        subject_of_checkpoint(of_checkpoint(run_folder / "model", data, out=run_folder))


@pytest.mark.parametrize(
    ("record", "template", "message"),
    [
        (
            Record("long " * 40, "", "x"),
            "{{ instruction }}",
            r"split: none of the 2 records .*test .* 1 to 64, the",
        ),
        (
            Record("", "", "x"),
            "{{ instruction }}",
            r"split: none of the 2 records .* have 0 to 0 tokens",
        ),
        (Record("a", "", "x"), "{{ question }}", "prompt template: .*question"),
    ],
)
def test_records_none_of_which_can_be_asked(
    run_folder: Path, record: Record, template: str, message: str
) -> None:
    model = look_at(os.path.relpath(run_folder / "model"))
    with pytest.raises(InputError, match=message):
        prepare("tuned", model, [record, record], template, DataConfig(), "test")


def test_a_record_that_cannot_be_asked_stays_out_and_keeps_its_status(run_folder: Path) -> None:
    model = look_at(run_folder / "model")
    records = [Record(text, "", "x") for text in ("~" * 65, "~" * 64, "", "a")]  # a token for each
    exam = prepare("tuned", model, records, "{{ instruction }}", DataConfig(), "test", [records[0]])
    assert exam.statuses == ["too long", None, "empty", None]
    assert [len(prompt) for prompt in exam.prompts] == [64, 1]
    assert 0 not in exam.examples.records
    assert len(exam.training_examples) == 0
    assert [line.partition("prompt is ")[2] for line in exam.unasked()] == [
        "too long: record 1",
        "empty: record 3",
    ]


def test_a_limit_of_training_does_not_stop_an_evaluation(run_folder: Path) -> None:
    """data.max_length leaves the record no answer to learn; it can be asked all the same."""
    exam = prepare(
        "tuned",
        look_at(run_folder / "model"),
        [Record("many words", "", "b")],
        "{{ instruction }}",
        DataConfig(max_length=2),
        "test",
    )
    assert (exam.statuses, len(exam.prompts), len(exam.examples)) == ([None], 1, 0)


def test_max_length_above_the_context(run_folder: Path) -> None:
    model, data = look_at(run_folder / "model"), DataConfig(max_length=65)
    with pytest.raises(
        InputError, match=r"data\.max_length: 65 is more than the model's context of 64"
    ):
        prepare("tuned", model, [Record("a", "", "b")], "{{ instruction }}", data, "test")


def test_what_had_a_part_in_making_a_model(run_folder: Path) -> None:
    """Of 20 records, 8 are for training, 10 for the test and 2 for validation, by which the best weights are chosen."""
    subject = subject_of_run(str(run_folder))
    seen = {
        split: [record.output for record in subject.seen(split) or []]
        for split in ("train", "test", "validation")
    }
    train, validation = [str(n + 1) for n in range(8)], ["19", "20"]
    assert seen == {"train": validation, "test": train + validation, "validation": train}
    assert [record.output for record in subject.training()] == train


def test_a_checkpoint_with_a_chat_template_alone_is_asked_in_it(
    run_folder: Path, tmp_path: Path
) -> None:
    (run_folder / "model" / "tokenizer_config.json").unlink()
    (run_folder / "model" / "chat_template.jinja").write_text(
        "user: {{ messages[0].content }}\n{{ 'bot:' }}"
    )
    data = DataConfig(source="json", path=str(tmp_path / "data.json"))
    asked = EvaluateConfig(
        data, GenerateConfig(), checkpoint=str(run_folder / "model"), out=str(tmp_path / "out")
    )
    subject = subject_of_checkpoint(asked)
    exam = prepare(
        "tuned", subject.models["tuned"], [Record("Say", "it", "!")], subject.template, data, "test"
    )
    tokenizer = subject.models["tuned"].tokenizer
    assert exam.prompts == [tokenizer.encode_ordinary("user: Say\n\nit\nbot:")]
    assert exam.examples.text(0).tolist() == [
        *exam.prompts[0],
        *tokenizer.encode_ordinary("!"),
        tokenizer.eot_token,
    ]
