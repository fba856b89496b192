"""The table on the terminal, and the first answers, from results that were written by hand."""

import math
from dataclasses import replace

import pytest

from sft.evaluation.results import examples_text, responses
from sft.evaluation.summary import table
from sft.metrics import METRICS, TEXT_METRICS
from sft.scoring.results import (
    AnswerResult,
    Audit,
    Duplicates,
    EvaluationSummary,
    JudgedScores,
    JudgeSummary,
    MeansWithout,
    RecordResult,
    read_summary,
)
from tests.fixtures.record import MADE

ANSWER = AnswerResult("It is 4.", 4, "stop", dict.fromkeys(TEXT_METRICS, 1.0), 0.5, 4)
UNASKED = AnswerResult(None, None, None, dict.fromkeys(TEXT_METRICS), None, 0, "too long")
JUDGED = JudgedScores(61.5, 60, 90, 20, (50.0, 70.0), 2, 3, {"scored": 2, "timeout": 1})


@pytest.fixture
def summary() -> EvaluationSummary:
    return read_summary(MADE / "run" / "evaluation")


def test_the_table_has_a_line_for_each_metric(summary: EvaluationSummary) -> None:
    summary.tuned.metrics["chrf"] = 0.123
    lines = table(summary).splitlines()
    labels = [metric.label for metric in METRICS if metric.name != "score"]
    labels += ["perplexity", "never stopped", "loops (share)"]
    assert [line[:16].strip() for line in lines[1 : 1 + len(labels)]] == labels
    [chrf] = [line for line in lines if line.startswith("chrF")]
    assert chrf.split() == [
        "chrF",
        "1.000",
        "0.439",
        "to",
        "1.000",
        "0.123",
        "0.439",
        "to",
        "1.000",
    ]


def test_the_table_without_a_base_has_one_column(summary: EvaluationSummary) -> None:
    alone = table(replace(summary, base=None, tuned_against_base=None))
    assert "base" not in alone
    assert "noise" not in alone
    assert "tuned" in alone


def test_the_table_has_the_judges_line_and_what_it_still_owes(summary: EvaluationSummary) -> None:
    audit = Audit(records=2, means={}, auc=1.0, verdict="trust it")
    judge = JudgeSummary({}, audit, None, coverage={}, warning="low coverage")
    assert "judge" not in table(summary)
    for model in summary.models.values():
        model.judge = JUDGED
    shown = table(replace(summary, judge=judge))
    assert shown.splitlines()[1].split()[:2] == ["judge", "61.500"]
    for remark in ("low coverage", "trust it", "no score yet for 2 answers"):
        assert remark in shown


def test_the_table_names_noise_duplicates_and_records_that_were_not_asked(
    summary: EvaluationSummary,
) -> None:
    summary.tuned.not_asked = {"empty": 2}
    shown = table(replace(summary, duplicates=Duplicates(1, 2, MeansWithout(0, {}))))
    assert "noise: exact match, token F1, ROUGE-L, chrF, loss" in shown
    assert "tuned: 2 records, whose prompt is empty" in shown
    assert "3 of the records have one, 1 of these word for word" in shown


def test_the_table_has_the_means_without_near_neighbours(summary: EvaluationSummary) -> None:
    means = {"exact_match": 0.25, "loss": 1.5}
    without = MeansWithout(7, {"tuned": means, "base": means})
    shown = table(replace(summary, duplicates=Duplicates(1, 2, without)))
    assert "over the other 7: exact match base 0.250, tuned 0.250; loss base 1.500" in shown


def test_numbers_that_are_missing_or_huge_keep_their_column(summary: EvaluationSummary) -> None:
    summary.tuned.loss = math.nan
    summary.tuned.perplexity = 1.5e300
    lines = {line[:16].strip(): line.split() for line in table(summary).splitlines()}
    assert lines["loss"][5] == "-"
    assert lines["perplexity"][2] == "1.50e+300"


def test_the_first_answers_are_shown_with_the_reason_where_there_is_none() -> None:
    first = RecordResult(1, None, "Add.", "2 and 2", "4", None, ANSWER, UNASKED)
    second = RecordResult(2, None, "Wait.", "", "", None, replace(ANSWER, text=""), None)
    assert examples_text([first, second, second, second]).split("\n\n")[:2] == [
        "Add.\n"
        "input     2 and 2\n"
        "expected  4\n"
        "base      (not asked: its prompt is too long)\n"
        "tuned     It is 4.",
        "Wait.\ntuned     (nothing)",
    ]
    assert examples_text([first] * 5).count("Add.") == 3


def test_responses_are_null_for_a_model_that_gave_none() -> None:
    rows = [
        RecordResult(1, None, "Add.", "", "4", None, ANSWER, UNASKED),
        RecordResult(2, None, "Add.", "", "4", None, ANSWER, None),
    ]
    assert [row["base_response"] for row in responses(rows)] == [None, None]
    assert [row["model_response"] for row in responses(rows)] == ["It is 4.", "It is 4."]
