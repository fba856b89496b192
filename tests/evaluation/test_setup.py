import dataclasses
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft.config.schema import DataConfig, EvaluateConfig, GenerateConfig
from sft.data.records import Record
from sft.data.sources import load_source
from sft.errors import InputError
from sft.evaluation.measure import encode_records
from sft.evaluation.setup import check_model, setup_of_checkpoint, setup_of_run
from sft.prompts import PROMPTS
from sft.summaries import FORMER_NANO


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_run_brings_model_base_template_and_records(run_folder: Path, tmp_path: Path) -> None:
    setup = setup_of_run(str(run_folder))
    assert {name: model.source for name, model in setup.models.items()} == {
        "tuned": str(run_folder / "model"),
        "base": str(tmp_path / "base"),
    }
    assert setup.models["tuned"].model.wte.weight.is_meta
    assert setup.template == "Q: {{ instruction }} {{ input }}\nA: "
    assert setup.folder == run_folder / "evaluation"
    assert [record.output for record in setup.records("test", None)] == [
        str(n + 1) for n in range(8, 18)
    ]
    assert [record.output for record in setup.records("test", 2)] == ["9", "10"]
    assert len(setup.records("validation", 99)) == 2


def test_latest_is_followed_once(run_folder: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to("run")
    assert setup_of_run(str(link)).folder == run_folder / "evaluation"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("summary.json", None, r"run: .*run is not a finished run \(it has no summary.json\)"),
        ("summary.json", "{", "summary.json: not JSON"),
        ("summary.json", "[]", "summary.json: expected a JSON object, found list"),
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
def test_a_missing_or_changed_file_of_a_run_is_named(
    run_folder: Path, file: str, content: str | None, message: str
) -> None:
    (run_folder / file).unlink() if content is None else (run_folder / file).write_text(content)
    with pytest.raises(InputError, match=message):
        setup_of_run(str(run_folder))


def test_a_missing_and_an_unfinished_run_are_refused(run_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run: .*nowhere .*python train.py"):
        setup_of_run(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="run: missing"):
        setup_of_run(None)
    (run_folder / "summary.json").unlink()
    (run_folder / "checkpoints").mkdir()
    (run_folder / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(InputError, match=r"run.*python train.py resume=.*run"):
        setup_of_run(str(run_folder))


def test_a_base_with_other_weights_is_refused(
    run_folder: Path, tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    make_checkpoint(tmp_path / "base", seed=9)
    with pytest.raises(InputError, match=r"base: .*weights .*run"):
        setup_of_run(str(run_folder))


WEIGHTS, RECORDS = FORMER_NANO


@pytest.mark.parametrize(
    ("changed", "key", "sha256"), [("base", "checkpoint", WEIGHTS), ("data", "data", RECORDS)]
)
def test_a_run_of_a_former_nano_is_refused_with_the_version_to_use(
    run_folder: Path,
    data: Path,
    make_checkpoint: Callable[..., Path],
    changed: str,
    key: str,
    sha256: str,
) -> None:
    if changed == "base":
        make_checkpoint(data.parent / "base", seed=9)
    else:
        data.write_text(data.read_text() + " ")
    summary = json.loads((run_folder / "summary.json").read_text())
    change(run_folder / "summary.json", **{key: summary[key] | {"sha256": sha256}})
    with pytest.raises(InputError) as refused:
        setup_of_run(str(run_folder))
    assert str(run_folder) in str(refused.value)
    assert "use sft 0.1.0" in str(refused.value)


def test_a_run_on_records_with_a_key_like_one_that_is_absent(run_folder: Path, data: Path) -> None:
    records = json.loads(data.read_text())
    data.write_text(
        json.dumps([{"Category": record.pop("category", ""), **record} for record in records])
    )
    summary = json.loads((run_folder / "summary.json").read_text())
    sha256 = hashlib.sha256(data.read_bytes()).hexdigest()
    change(run_folder / "summary.json", data=summary["data"] | {"sha256": sha256})
    setup = setup_of_run(str(run_folder))
    assert setup.source.unused["Category"] == len(records)
    with pytest.raises(InputError, match=r"'Category' is not read; rename it to 'category'"):
        setup_of_checkpoint(of_checkpoint(run_folder / "model", data))


def test_an_empty_split_is_refused(run_folder: Path) -> None:
    summary = json.loads((run_folder / "summary.json").read_text())
    summary["config"]["data"]["split"] = [0.9, 0.0, 0.1]
    change(run_folder / "summary.json", **summary)
    with pytest.raises(InputError, match=r"split: .*\[0.9, 0.0, 0.1\] leaves no record for test"):
        setup_of_run(str(run_folder)).records("test", None)


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
    setup = setup_of_checkpoint(of_checkpoint(run_folder / "model", data))
    assert setup.models["base"].source == str(tmp_path / "base")
    assert setup.no_base is None
    assert setup.template.startswith("Q: ")
    assert setup.folder == run_folder / "out"


def test_a_checkpoint_without_a_base_says_why(
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
        setup = setup_of_checkpoint(of_checkpoint(folder, data, prompt="phi3"))
        assert list(setup.models) == ["tuned"]
        assert reason in (setup.no_base or "")
        assert setup.template == PROMPTS["phi3"]


def test_a_model_of_plain_text_is_refused(
    tmp_path: Path, data: Path, make_checkpoint: Callable
) -> None:
    with pytest.raises(InputError, match=r"data.prompt: .* was trained on plain text"):
        setup_of_checkpoint(
            of_checkpoint(make_checkpoint(tmp_path / "plain", seed=4), data, prompt="none")
        )


def test_results_do_not_go_into_the_folder_of_a_run(run_folder: Path, data: Path) -> None:
    with pytest.raises(InputError, match=r"out: .*run .*summary\.json"):
        setup_of_checkpoint(of_checkpoint(run_folder / "model", data, out=run_folder))


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
def test_records_that_cannot_be_asked_at_all_are_refused(
    run_folder: Path, record: Record, template: str, message: str
) -> None:
    model = check_model(os.path.relpath(run_folder / "model"))
    with pytest.raises(InputError, match=message):
        encode_records("tuned", model, [record, record], template, DataConfig(), "test")


def test_a_record_that_cannot_be_asked_stays_out_and_keeps_its_status(run_folder: Path) -> None:
    model = check_model(run_folder / "model")
    records = [Record(text, "", "x") for text in ("~" * 65, "~" * 64, "", "a")]  # a token for each
    encoded = encode_records(
        "tuned", model, records, "{{ instruction }}", DataConfig(), "test", [records[0]]
    )
    assert encoded.statuses == ["too long", None, "empty", None]
    assert [len(prompt) for prompt in encoded.prompts] == [64, 1]
    assert 0 not in encoded.examples.records
    assert len(encoded.training_examples) == 0
    assert [line.partition("prompt is ")[2] for line in encoded.unasked()] == [
        "too long: record 1",
        "empty: record 3",
    ]


def test_a_limit_of_training_does_not_stop_an_evaluation(run_folder: Path) -> None:
    """data.max_length leaves the record no answer to learn; it can be asked all the same."""
    encoded = encode_records(
        "tuned",
        check_model(run_folder / "model"),
        [Record("many words", "", "b")],
        "{{ instruction }}",
        DataConfig(max_length=2),
        "test",
    )
    assert (encoded.statuses, len(encoded.prompts), len(encoded.examples)) == ([None], 1, 0)


def test_max_length_above_the_context_is_refused(run_folder: Path) -> None:
    model, data = check_model(run_folder / "model"), DataConfig(max_length=65)
    with pytest.raises(InputError, match=r"data\.max_length: 65 .* 64"):
        encode_records("tuned", model, [Record("a", "", "b")], "{{ instruction }}", data, "test")


def test_records_used_for_tuning_are_those_of_train_and_validation(run_folder: Path) -> None:
    """There are 8 records for training, 10 for the test, and 2 that choose the best weights."""
    setup = setup_of_run(str(run_folder))
    seen = {
        split: [record.output for record in setup.used_for_tuning(split) or []]
        for split in ("train", "test", "validation")
    }
    train, validation = [str(n + 1) for n in range(8)], ["19", "20"]
    assert seen == {"train": validation, "test": train + validation, "validation": train}
    assert [record.output for record in setup.training_records()] == train


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
    setup = setup_of_checkpoint(asked)
    encoded = encode_records(
        "tuned", setup.models["tuned"], [Record("Say", "it", "!")], setup.template, data, "test"
    )
    tokenizer = setup.models["tuned"].tokenizer
    assert encoded.prompts == [tokenizer.encode_ordinary("user: Say\n\nit\nbot:")]
    assert encoded.examples.text(0).tolist() == [
        *encoded.prompts[0],
        *tokenizer.encode_ordinary("!"),
        tokenizer.eot_token,
    ]


def test_a_runs_own_test_file_is_found_also_where_it_has_moved(
    run_folder: Path, data: Path, tmp_path: Path
) -> None:
    test = tmp_path / "test.json"
    test.write_text('[{"instruction": "a", "output": "b"}]')
    choices = DataConfig("file", str(data), test=str(test), split=[0.9, 0.0, 0.1])
    summary = json.loads((run_folder / "summary.json").read_text())
    summary["config"]["data"] = dataclasses.asdict(choices)
    summary["data"]["sha256"] = load_source(choices).sha256
    change(run_folder / "summary.json", **summary)
    expected = [Record("a", "", "b")]
    assert setup_of_run(str(run_folder)).records("test", None) == expected

    test.rename(tmp_path / "moved.json")
    with pytest.raises(InputError, match=r"test.json: no such file; .* give data.test="):
        setup_of_run(str(run_folder))
    now = DataConfig("nano", test=str(tmp_path / "moved.json"))
    assert setup_of_run(str(run_folder), now).records("test", None) == expected
    (tmp_path / "moved.json").write_text('[{"instruction": "a", "output": "c"}]')
    with pytest.raises(InputError, match="not the file that"):
        setup_of_run(str(run_folder), now)
