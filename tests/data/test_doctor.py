"""The data doctor: what each check marks, and the command as a user gives it."""

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.config.schema import DataConfig
from sft.data.doctor import CHECKS, Examination, examine, share
from sft.data.records import Record, Turn
from sft.data.sources import load_source
from sft.errors import InputError
from sft.prompts import PROMPTS
from tests.evaluation.reading import Seen

RECORDS = [
    Record("What is the plural of box?", "", "Boxes."),
    Record("What is the plural of box?", "", "It is boxes."),
    Record("what is the plural of BOX", "", "Boxes."),
    Record("What is the plural of fox?", "", "Foxes."),
    Record("Name a colour.", "", "N/A"),
    Record("Where is the cafÃ©?", "", "There."),
    Record("Spell it.", "### Response:\nno", "n-o"),
    Record("Say it again.", "", "So be it. " * 30),
    Record("Скажи слово.", "", "Слово"),
    Record("What is the plural of hat?", "", "Hats."),
]
SPLITS = {"train": range(8), "test": range(8, 10), "validation": range(10, 10)}


@pytest.fixture(scope="module")
def nano() -> Pretrained:
    return load_pretrained("gpt2-nano", device="meta")


@pytest.fixture(scope="module")
def found(nano: Pretrained) -> Examination:
    return examine(RECORDS, SPLITS, PROMPTS["alpaca"], nano.tokenizer, context=90)


@pytest.mark.parametrize(
    ("check", "places"),
    [
        ("duplicates", [1]),
        ("close", [1, 2]),
        ("near", [1, 2, 3, 9]),
        ("empty", [4]),
        ("mojibake", [5]),
        ("markers", [6]),
        ("loops", [7]),
        ("too-long", [7]),
    ],
)
def test_each_check_marks_its_records(found: Examination, check: str, places: list[int]) -> None:
    if check == "mojibake":
        pytest.importorskip("ftfy")
    assert found.marked[check].tolist() == places


def test_the_same_question_under_another_system_turn_is_no_duplicate(nano: Pretrained) -> None:
    systems = ["Answer in French.", "Answer in German.", "Answer in French."]
    records = [
        Record("Name a colour.", "", "Rouge", before=(Turn("system", text),)) for text in systems
    ]
    splits = {"train": np.arange(3)}
    found = examine(records, splits, PROMPTS["alpaca"], nano.tokenizer, context=90)
    assert found.marked["duplicates"].tolist() == [2]


def test_every_check_is_tested_above() -> None:
    [mark] = list(test_each_check_marks_its_records.pytestmark)
    assert [check for check, _ in mark.args[1]] == list(CHECKS)


def test_a_check_without_its_library_is_skipped_and_cannot_drop(
    nano: Pretrained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = examine(RECORDS, SPLITS, PROMPTS["alpaca"], nano.tokenizer, context=90)
    assert "mojibake" not in found.marked
    with pytest.raises(InputError, match="ftfy"):
        found.kept(["mojibake"])


def test_a_split_is_compared_with_train(found: Examination) -> None:
    shared = found.shared["test"]
    assert found.shared.keys() == {"test"}
    assert (shared.records, shared.exact) == (2, 0)
    assert shared.similar == {0.9: 0, 0.8: 1, 0.7: 1}
    [(record, train, similarity)] = shared.pairs
    assert (record, train) == (9, 0)
    assert 0.8 <= similarity < 0.9


def test_lengths_are_those_of_prompt_and_answer_with_its_end(
    found: Examination, nano: Pretrained
) -> None:
    count = len(nano.tokenizer.encode_ordinary("Boxes."))
    assert found.answers[0] == count + 1
    assert found.by_length()[-1] == 7
    assert found.percentiles()["answer"][-1] == found.answers[7]


def test_scripts_are_counted_by_letters_and_by_records(found: Examination) -> None:
    assert list(found.scripts) == ["Latin", "Cyrillic"]
    assert found.scripts["Cyrillic"] == (15, 1)


@pytest.mark.parametrize(
    ("part", "whole", "shown"),
    [
        (0, 5_000, ("0.0%", "0.00%")),
        (1, 100_000, ("<0.1%", "<0.01%")),
        (1, 5_000, ("<0.1%", "0.02%")),
        (1, 1_000, ("0.1%", "0.10%")),
        (3, 3, ("100.0%", "100.00%")),
    ],
)
def test_a_rare_thing_does_not_have_a_share_of_zero(
    part: int, whole: int, shown: tuple[str, str]
) -> None:
    assert (share(part, whole), share(part, whole, digits=2)) == shown


def test_a_rare_script_is_shown_as_rare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.json"
    rows = [{"instruction": "Say it", "output": "word " * 60} for _ in range(20)]
    rows[0]["output"] += "ж"
    file.write_text(json.dumps(rows))
    doctor(monkeypatch, file, "--checkpoint", "gpt2-nano")
    assert "scripts: Latin 100.0%, Cyrillic <0.1%" in capsys.readouterr().out


def test_what_no_named_check_marks_is_kept(found: Examination) -> None:
    assert found.kept([]) == list(range(10))
    assert found.kept(["duplicates", "loops"]) == [0, 2, 3, 4, 5, 6, 8, 9]
    with pytest.raises(InputError, match="'twins'"):
        found.kept(["twins"])


def turns(*texts: str) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(texts)
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]


def doctor(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["sft.data", *map(str, words)])
    importlib.import_module("sft.data.__main__").main()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a [mine], it's.json"
    rows = [
        {"instruction": r.instruction, "input": r.input, "output": r.output, "category": "a"}
        for r in RECORDS
    ]
    path.write_text(json.dumps(rows))
    return path


def test_the_command_shows_writes_a_page_and_a_copy(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = file.with_name("page.html")
    copy = file.with_name("clean.jsonl")
    before = file.read_bytes()
    doctor(
        monkeypatch, file, "data.split=[0.8,0.2,0]", "data.split_by=order", "data.max_length=90",
        "--checkpoint", "gpt2-nano", "--html", page, "--write", copy, "--drop", "near,empty",
    )  # fmt: skip
    assert file.read_bytes() == before

    lines = {line[:12].strip(): line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["near"][1] == "4"
    assert lines["test"][1:] == ["2", "0", "0", "1", "1"]
    kept = [json.loads(line) for line in copy.read_text().splitlines()]
    assert [row["output"] for row in kept[:2]] == ["Boxes.", "There."]
    assert kept[0]["category"] == "a"

    seen = Seen(page.read_text(encoding="utf-8"))
    for words in (
        "10 records, instruction format.",
        "an answer that repeats itself loops 1 10.0%",
        "Cyrillic 1",
    ):
        assert words in seen.text, words
    links = [v for name, v in seen.attributes if name in ("src", "href") and v[0] != "#"]
    assert links == ["data:,"]


@pytest.mark.parametrize(
    "items",
    [
        [{"text": "Once."}, {"text": "Twice."}],
        [{"prompt": "Q", "chosen": "a", "rejected": "b"}],
        [{"messages": turns("Q", "a")}, {"messages": turns("Q", "a", "R", "b")}],
        [{"instruction": "Q", "output": "a", "history": [["R", "b"]], "system": "S"}],
        [
            {"instruction": "Q", "input": "I", "output": "a", "history": [["R", "b"]]},
            {"instruction": "Q", "input": "I", "output": "a", "category": "k"},
        ],
        [
            {
                "prompt": turns("Q", "a", "R"),
                "chosen": [{"role": "assistant", "content": "b"}],
                "rejected": [{"role": "assistant", "content": "c"}],
            }
        ],
    ],
)
def test_a_copy_holds_the_records_in_one_shape(
    items: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.json"
    file.write_text(json.dumps(items))
    copy = tmp_path / "copy.jsonl"
    doctor(monkeypatch, file, "data.split=[1,0,0]", "--checkpoint", "gpt2-nano", "--write", copy)
    original, written = (load_source(DataConfig("file", str(path))) for path in (file, copy))
    assert written.records == original.records


def test_lengths_are_counted_with_the_template_that_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    doctor(monkeypatch, file, "data.prompt=phi3", "--checkpoint", "gpt2-nano")
    assert "with the template phi3" in capsys.readouterr().out


def test_what_a_record_holds_cannot_become_part_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.jsonl"
    row = {"instruction": "<script>x</script>", "output": "</td><img src=x>"}
    file.write_text("\n".join([json.dumps(row)] * 20))
    doctor(monkeypatch, file, "--html", tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<script" not in text
    assert "<img" not in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--write", "FILE"), "--write"),
        (("--drop", "near"), "--drop"),
        (("--write", "other.jsonl", "--drop", "twins"), "twins"),
        (("data.splitt=[1,0,0]",), "data.splitt"),
        (("data.split=[2,0,0]",), "data.split"),
        (("epochs=3",), "^epochs: "),
        (("optim.lr=1",), "^optim.lr: "),
        (("lora=default",), "^lora: "),
        (("model.dropout=0.1",), "^model.dropout: "),
        (("data.shuffle=false",), "^data.shuffle: "),
        (("data.mask_prompt=true",), "^data.mask_prompt: "),
        (("data.keep_by=longest",), "^data.keep_by: .*data.keep=SHARE"),
        (("data.test=test.csv", "data.split=[0.8,0.1,0.1]"), "^data.split: .*a file of its own"),
        (("model=gpt2-nano", "--checkpoint", "gpt2-nano"), "^model: .*--checkpoint"),
    ],
)
def test_what_cannot_be_is_refused_and_nothing_written(
    file: Path, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    before = file.read_bytes()
    with pytest.raises(InputError, match=said):
        doctor(monkeypatch, file, *(str(file) if word == "FILE" else word for word in words))
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    assert file.read_bytes() == before
