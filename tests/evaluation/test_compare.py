import json
from pathlib import Path
from typing import Any

import pytest

from sft.errors import InputError
from sft.evaluation.compare import compare, comparison_text, read_evaluation
from tests.fixtures.record import MADE

JUDGE = {"kind": "ollama", "model": "llama3:latest", "coverage": {"tuned": 1.0}}


def write(
    folder: Path, exact: list[float], judge: Any = None, asked: str = "Say", **settings: Any
) -> str:
    evaluation = folder / "evaluation"
    evaluation.mkdir(parents=True)
    made = json.loads((MADE / "run" / "evaluation" / "summary.json").read_text())
    if judge:
        judge = {"audit": None, "pairwise": None, "coverage": {}, "warning": None} | judge
    summary = made | {"judge": judge, "decoding": {"seed": 1}, "template": "t"} | settings
    (evaluation / "summary.json").write_text(json.dumps(summary))
    rows = []
    for number, value in enumerate(exact, 1):
        part: dict[str, Any] = dict.fromkeys(("exact_match", "token_f1", "rouge_l", "chrf"), value)
        part |= {"text": "x", "tokens": 1, "finish_reason": "stop", "reason": None}
        part |= {"status": "scored" if judge else None}
        part |= {"loss": 2 - value, "loss_tokens": 3, "score": round(50 * value) if judge else None}
        rows.append(
            {
                "record": number,
                "duplicate": None,
                "category": None,
                "base": None,
                "instruction": f"{asked} {number}",
                "input": "",
                "output": "x",
                "tuned": part,
            }
        )
    (evaluation / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_the_better_run_is_named_with_its_wins_and_its_difference(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [1.0] * 18 + [0.0] * 2, JUDGE)
    second = write(tmp_path / "b", [0.0] * 17 + [1.0] * 3, JUDGE)
    found = compare(read_evaluation(first), read_evaluation(second))
    exact, score = found.differences["exact_match"], found.differences["score"]
    assert (exact.wins, exact.ties, exact.losses) == (17, 1, 2)
    assert exact.difference == pytest.approx(0.75)
    assert score.difference == pytest.approx(50 * 0.75)
    assert exact.p_value < 0.01
    text = comparison_text(found)
    assert "exact match: the first is better than the second" in text
    assert "loss: the first is better than the second" in text
    assert "+0.750" in text
    assert "17/1/2" in text
    assert "note" not in text


def test_noise_and_settings_that_differ_are_named(tmp_path: Path) -> None:
    first, second = (
        write(tmp_path / "a", [1, 0, 1, 0, 1]),
        write(tmp_path / "b", [0, 1, 1, 0, 1], template="other"),
    )
    text = comparison_text(compare(read_evaluation(first), read_evaluation(second)))
    assert "exact match: the difference is within noise" in text
    assert "note: the two differ in template" in text


def test_scores_of_two_judges_are_not_compared(tmp_path: Path) -> None:
    other = {"kind": "ollama", "model": "phi3:latest"}
    first, second = (
        write(tmp_path / "a", [1.0, 0.5], JUDGE),
        write(tmp_path / "b", [0.0, 0.5], other),
    )
    found = compare(read_evaluation(first), read_evaluation(second))
    assert "score" not in found.differences
    assert "not the same judge" in comparison_text(found)


def test_runs_of_other_records_are_refused_by_the_first_that_differs(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", [1.0] * 5), write(tmp_path / "b", [1.0] * 3)
    with pytest.raises(
        InputError, match=r"not asked the same records \(from record 4 on; 5 and 3 in all\)"
    ):
        compare(read_evaluation(first), read_evaluation(second))
    third = write(tmp_path / "c", [1.0] * 5, asked="Sing")
    with pytest.raises(InputError, match=r"from record 1 on"):
        compare(read_evaluation(first), read_evaluation(third))


def test_runs_of_other_splits_are_refused_with_what_to_run(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", [1.0] * 5), write(tmp_path / "b", [1.0] * 3)
    file = Path(second) / "evaluation" / "summary.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"split": "validation"}))
    with pytest.raises(InputError, match=r"validation split.* run=\S+/b split=test$"):
        compare(read_evaluation(first), read_evaluation(second))


def test_a_folder_without_a_readable_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"has not been evaluated; first: python evaluate\.py run="
    ):
        read_evaluation(str(tmp_path))
    broken = Path(write(tmp_path / "a", [1.0]))
    for content in ("{\n", '{"record": 1}\n', "[1]\n"):
        (broken / "evaluation" / "records.jsonl").write_text(content)
        with pytest.raises(InputError, match=r"not an evaluation as evaluate\.py writes it"):
            read_evaluation(str(broken))


def test_one_record_gives_no_interval(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a", [1.0]), write(tmp_path / "b", [0.0])
    found = compare(read_evaluation(first), read_evaluation(second))
    assert found.differences["exact_match"].interval is None
    assert "exact match: the difference is within noise" in comparison_text(found)


def test_a_record_that_one_model_was_not_asked_is_counted_and_the_others_are_compared(
    tmp_path: Path,
) -> None:
    first, second = write(tmp_path / "a", [1.0] * 8), write(tmp_path / "b", [0.0] * 8)
    file = Path(first) / "evaluation" / "records.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[3]["tuned"] = dict.fromkeys(rows[3]["tuned"]) | {"status": "too long", "loss_tokens": 0}
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = compare(read_evaluation(first), read_evaluation(second))
    assert {one.records for one in found.differences.values()} == {7}
    assert found.not_asked == {"first": {"too long": 1}, "second": {}}
    text = comparison_text(found)
    assert "first: 1 record, whose prompt is too long" in text
    assert "of the second" not in text


@pytest.mark.parametrize("records", [2, 3, 5, 6, 9])
def test_interval_and_test_agree_on_few_records(tmp_path: Path, records: int) -> None:
    """All records are better; fewer than six of them prove nothing, and the text says why."""
    better = [1.0 - 0.05 * number for number in range(records)]
    first, second = write(tmp_path / "a", better), write(tmp_path / "b", [0.1] * records)
    found = compare(read_evaluation(first), read_evaluation(second))
    for one in found.differences.values():
        low, high = one.interval or (0, 0)
        assert (low <= 0 <= high) == ("within noise" in one.verdict)
    assert ("no 95% interval" in comparison_text(found)) == (records < 6)


def test_it_is_said_which_difference_the_records_could_have_shown(tmp_path: Path) -> None:
    """110 records, of which 33 are answered differently, show about 15 points."""
    first = write(tmp_path / "a", [1.0] * 94 + [0.0] * 16)
    second = write(tmp_path / "b", [0.0] * 17 + [1.0] * 93)
    found = compare(read_evaluation(first), read_evaluation(second))
    assert found.differences["exact_match"].visible == pytest.approx(0.146, abs=0.002)
    assert "four times in five: exact match 0.147" in comparison_text(found)
