"""The report shows what a summary holds, and leaves out what is absent."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.evaluation import made_up
from tests.evaluation.reading import Seen, assert_table


def test_the_page_shows_each_part_of_the_summary(write: Callable[..., tuple[Seen, str]]) -> None:
    seen, _ = write(metrics=made_up.metrics())
    for words in (
        "gpt2-medium, before and after tuning By exact match, the tuned model's exact_match "
        "differs from its base's by 0.80.",
        "60 records of the test split, judged by llama3:latest, after 346 training steps.",
        "Take care. only 87% of the answers were scored",
        "judge's score from 0 to 100 18.7 17.4 to 19.8 81.0 75.3 to 85.9 +62.3 56.1 to 68.5",
        "51 won, 6 tied, 3 lost; p < 0.001",
        "loss nats per token; lower is better 2.481",
        "correlation of score with length −0.31 −0.31",
        "2 of these records have a near neighbour",
        "1 of them stand there word for word, and 1 have at least 0.9 in common",
        "Without one of 0.9: mean over 59 records",
        "answers that repeat themselves, as a share 0.350 0.350",
        "Without a near neighbour: mean over 58 records Base Tuned",
        "scored 55 of 60 58 of 60 unparsed 5 2",
        "This judge tells expected answers from others. the expected answer 98.2 "
        "another record's answer 12.3",
        "AUC 0.99",
        "The judge prefers the tuned model's answers.",
        "48 won, 9 tied, 2 lost, 1 not judged; p = 0.001",
        "Position bias: 15%",
        "digest 365c0bd3c000a25d28ddbf732fe1c6add414de7275464c4e4d1c3b5fcb5d8ad1",
        "options.num_ctx 4096",
        "The worst by judge's score",
        "17 Name a colour. Seven. 5.125",
        "train 1,377 71,266 70 4",
        "sha256 a311981622926d8a65b1f836b22b12f5267652ccb70bf3c1",
        "best validation loss 0.080",
        "### Instruction: {{ instruction }}",
        "optim.betas [0.9, 0.999]",
        "judge.retries 4",
        "torch 2.13.0",
        "torch 2.12.0",
        "source openai-community/gpt2-medium revision – sha256 3e5e2ec735e0547300dd6f095c4eeb35",
    ):
        assert words in seen.text, words


def test_the_weakest_category_stands_first(write: Callable[..., tuple[Seen, str]]) -> None:
    seen, _ = write(
        score_by_category={
            "b": {"records": 2, "tuned": 90.0, "base": 1.0},
            "a": {"records": 1, "tuned": 5},
        }
    )
    assert "b 2 90.0 , base 1.0" in seen.text
    assert seen.text.index("a 1 5 , base –") < seen.text.index("b 2 90.0")
    seen, _ = write(
        score_by_category=None,
        exact_match_by_category={"c": {"records": 3, "tuned": 0.5, "base": 0.25}},
    )
    assert "Mean exact match of the tuned model" in seen.text
    assert "c 3 0.500 , base 0.250" in seen.text


ABSENT: dict[str, dict[str, Any]] = {
    "base": {"base": None, "tuned_against_base": None, "no_base": "it does not name one"},
    "judge": {"judge": None, "score_by_category": None},
    "audit": {"judge": made_up.JUDGE | {"audit": None, "pairwise": None, "warning": None}},
    "categories": {"score_by_category": None, "exact_match_by_category": None},
    "duplicates": {"duplicates": None},
    "no duplicates": {"duplicates": {"exact": 0, "near": 0, "without": {"records": 60}}},
    "worst": {"worst": {}, "noisiest_training_records": []},
    "worst of other records": {"worst": {"loss": [999]}},
    "run": {"run": None},
    "comparison": {"tuned_against_base": {}},
}
ABSENT["all"] = ABSENT["base"] | ABSENT["judge"] | ABSENT["categories"] | ABSENT["duplicates"]
ABSENT["all"] |= ABSENT["worst"] | ABSENT["run"] | {"no_base": None, "template": "", "loss_is": ""}


def test_the_worst_records_are_shown_with_the_turns_before_them(
    write: Callable[..., tuple[Seen, str]],
) -> None:
    before = [
        {"role": "user", "content": "Name a <b>bird</b>."},
        {"role": "assistant", "content": "wren"},
    ]
    rows = [row | {"before": before} for row in made_up.rows()]
    seen, _ = write(rows)
    assert "user Name a <b>bird</b>. assistant wren Add the two numbers" in seen.text


@pytest.mark.parametrize("what", ABSENT)
def test_what_is_absent_is_left_out(what: str, write: Callable[..., tuple[Seen, str]]) -> None:
    rows = [row | ({"base": None} if what in ("base", "all") else {}) for row in made_up.rows()]
    if what in ("judge", "all"):
        for row in rows:
            row["tuned"] |= {"score": None, "status": None, "reason": None}
    seen, markdown = write(rows, **ABSENT[what])
    for text in (seen.text, markdown):
        assert re.search(r"\b(None|nan|Undefined)\b", text) is None
    anchors = {value for name, value in seen.attributes if name == "href" and value.startswith("#")}
    assert [
        link
        for link in anchors
        if not link.startswith("#record-") and ("id", link[1:]) not in seen.attributes
    ] == []


def test_the_forms_of_the_judges_replies_are_shown(write: Callable[..., tuple[Seen, str]]) -> None:
    forms = {"json_schema": 1100, "none": 10}
    seen, _ = write(judge=made_up.JUDGE | {"forms": forms})
    assert "json_schema 1,100, plain text 10." in seen.text
    assert "forms." not in seen.text

    # An evaluation of an earlier version noted none, and pairs may all be unasked.
    for judge in (made_up.JUDGE, made_up.JUDGE | {"forms": {}}):
        seen, _ = write(judge=judge)
        assert "form that was asked for" not in seen.text


def test_a_model_alone(write: Callable[..., tuple[Seen, str]]) -> None:
    rows = [row | {"base": None} for row in made_up.rows()]
    seen, markdown = write(rows, **ABSENT["base"])
    assert "model, tuned 60 records" in seen.text
    assert "No base: it does not name one." in seen.text
    assert "Base" not in seen.text
    assert "Difference" not in seen.text
    assert_table(markdown, columns=2)


def test_without_a_judge_chrf_is_shown(write: Callable[..., tuple[Seen, str]]) -> None:
    summary = made_up.summary(made_up.rows())
    models = {name: summary[name] | {"judge": None} for name in ("tuned", "base")}
    against = {key: value for key, value in summary["tuned_against_base"].items() if key != "score"}
    rest = {"worst": {"chrf": [1]}, "duplicates": None}
    seen, _ = write(**ABSENT["judge"], **models, **rest, tuned_against_base=against)
    assert "Records by chrF" in seen.text

    # The config's keys alone name it.
    assert "judge" not in re.sub(r"judge\.\w+", "", seen.text)
    assert seen.text.count("the tuned model's exact_match differs from its base's by 0.80") == 2


def test_without_a_run(write: Callable[..., tuple[Seen, str]]) -> None:
    seen, _ = write(run=None)
    assert "Loss in training" not in seen.text
    assert "training steps" not in seen.text
    assert "The whole config of the evaluation" in seen.text
    assert "The whole config of the training" not in seen.text


def test_numbers_that_are_not_finite_are_left_out(write: Callable[..., tuple[Seen, str]]) -> None:
    def nothing(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: nothing(item) for key, item in value.items()}
        return math.nan if isinstance(value, float) else value

    rows, summary = (
        [nothing(row) for row in made_up.rows()],
        nothing(made_up.summary(made_up.rows())),
    )
    metrics = [{"step": 1, "epoch": 0.5, "train/loss": math.nan}]
    seen, markdown = write(rows, nothing(made_up.RUN), metrics, **summary)
    assert "nan" not in seen.text + markdown
    assert "Loss in training" not in seen.text


@pytest.mark.parametrize(
    ("judge", "leads"),
    [
        ({"warning": None}, "By judge's score, the tuned"),
        ({"warning": "Only 60%"}, "By exact match, the tuned"),
        (
            {"warning": None, "audit": {"records": 20, "means": {}, "auc": 0.6, "verdict": "no"}},
            "By exact match, the",
        ),
        (
            {"warning": None, "audit": {"records": 0, "means": {}, "auc": None, "verdict": "no"}},
            "By exact match, the",
        ),
        ({"warning": None, "audit": None}, "By judge's score, the tuned"),
    ],
)
def test_a_judge_leads_only_if_it_can_be_relied_on(
    write: Callable[..., tuple[Seen, str]], judge: dict[str, object], leads: str
) -> None:
    seen, _ = write(judge=made_up.JUDGE | judge)
    assert f"before and after tuning {leads}" in seen.text


def test_a_difference_without_an_interval_says_why(write: Callable[..., tuple[Seen, str]]) -> None:
    against = made_up.summary(made_up.rows())["tuned_against_base"]
    for shown in write():
        assert "no 95% interval" not in getattr(shown, "text", shown)
    for shown in write(tuned_against_base=against | {"chrf": against["chrf"] | {"interval": None}}):
        assert "no 95% interval" in getattr(shown, "text", shown)
