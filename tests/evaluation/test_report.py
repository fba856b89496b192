"""What is in the report's files; how a browser shows them is tested in tests/browser."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sft.config import InputError
from sft.evaluation.charts import histogram, loss_curves
from sft.evaluation.report import duration, flat, interval, number, p_value, signed, write_report
from tests.evaluation import made_up

HOSTILE = (
    '</script><script>alert(1)</script></style><img src="http://x/y.png" onerror=alert(1)>'
    "<!-- ' &lt; \u2028 {{ 7 * 7 }}"
)


class Seen(HTMLParser):
    """The elements of a page, with their attributes, and its text but for scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.raw: dict[str, list[str]] = {"script": [], "style": []}
        self.texts: list[str] = []
        self.feed(page)
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.raw.get(self.lasttag, self.texts).append(data)
        if self.lasttag in self.raw and not data.strip():
            self.raw[self.lasttag].pop()


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., tuple[Seen, str]]:
    """Writes the report of the made-up evaluation, with changes to its summary, and reads both files."""

    def with_changes(
        rows: list[Any] | None = None, run: Any = made_up.RUN, metrics: Any = None, **changes: Any
    ) -> tuple[Seen, str]:
        summary = made_up.summary(made_up.rows()) | changes
        write_report(tmp_path, summary, made_up.rows() if rows is None else rows, run, metrics)
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        return Seen(page), (tmp_path / "report.md").read_text(encoding="utf-8")

    return with_changes


def test_both_files_and_nothing_else(write: Callable[..., Any], tmp_path: Path) -> None:
    write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]


def test_all_that_there_is_to_see(write: Callable[..., tuple[Seen, str]]) -> None:
    seen, _ = write(metrics=made_up.metrics())
    for words in (
        "gpt2-medium, before and after tuning the tuned model's score differs from its base's by 62.29",
        "60 records of the test split, judged by llama3:latest, after 346 training steps.",
        "Take care. only 87% of the answers were scored",
        "judge's score from 0 to 100 18.7 17.4 to 19.8 81.0 75.3 to 85.9 +62.3 56.1 to 68.5",
        "51 won, 6 tied, 3 lost; p < 0.001",
        "loss nats per token; lower is better 2.481",
        "correlation of score with length −0.31 −0.31",
        "1 of these records word for word, 1 more but for case, punctuation and spaces",
        "Mean over 58 records Base Tuned",
        "scored 55 of 60 58 of 60 unparsed 5 2",
        "This judge tells expected answers from others. the expected answer 98.2 another record's answer 12.3",
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
        score_by_category={"b": {"records": 2, "tuned": 90.0, "base": 1.0}, "a": {"records": 1, "tuned": 5}}
    )
    assert "b 2 90.0 , base 1.0" in seen.text
    assert seen.text.index("a 1 5 , base –") < seen.text.index("b 2 90.0")
    seen, _ = write(score_by_category=None, exact_match_by_category={"c": {"records": 3, "tuned": 0.5, "base": 0.25}})
    assert "Mean exact match of the tuned model" in seen.text
    assert "c 3 0.500 , base 0.250" in seen.text


def test_the_records_are_in_the_page(write: Callable[..., tuple[Seen, str]]) -> None:
    rows = made_up.rows(3)
    rows[0]["tuned"]["loss"] = math.nan
    seen, _ = write(rows)
    written = json.loads(seen.raw["script"][0])
    assert written[0]["tuned"]["loss"] is None
    assert written[1:] == rows[1:]


def test_a_page_asks_for_nothing_and_runs_its_own_script_alone(write: Callable[..., tuple[Seen, str]]) -> None:
    seen, _ = write(metrics=made_up.metrics())
    links = [value for name, value in seen.attributes if name in ("src", "href", "xlink:href", "action", "srcset")]
    assert links
    assert [link for link in links if not link.startswith("#") and link != "data:,"] == []
    assert "url(" not in "".join(seen.raw["style"])
    assert "@import" not in "".join(seen.raw["style"])
    [policy] = [value for _, value in seen.attributes if value.startswith("default-src")]
    digest = base64.b64encode(hashlib.sha256(seen.raw["script"][1].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy


def test_ids_are_unique(write: Callable[..., tuple[Seen, str]]) -> None:
    seen, _ = write(metrics=made_up.metrics())
    ids = [value for name, value in seen.attributes if name == "id"]
    assert len(ids) == len(set(ids)) > 50
    links = [value[1:] for name, value in seen.attributes if name.endswith("href") and value.startswith("#")]
    assert [link for link in links if link not in ids and not link.startswith("record-")] == []


def put(text: str) -> dict[str, Any]:
    """The arguments of `write` with a text wherever one comes from a model, from data or from outside."""
    rows = made_up.rows(3)
    for row in rows:
        row |= dict.fromkeys(["instruction", "input", "output", "category"], text)
        row["tuned"] |= {"text": text, "reason": text, "status": text}
        row["base"] |= {"text": text}
    summary = made_up.summary(made_up.rows())
    audit, pairwise = (made_up.JUDGE[key] | {"verdict": text} for key in ("audit", "pairwise"))
    judge = dict.fromkeys(["kind", "model", "prompt", "warning", "url"], text) | {"audit": audit, "pairwise": pairwise}
    against = {key: value | {"verdict": text} for key, value in summary["tuned_against_base"].items()}
    noisy = {"record": 1, "loss": 2.0} | dict.fromkeys(["instruction", "input", "output"], text)
    models = {name: summary[name] | {"source": text, "revision": text} for name in ("tuned", "base")}
    changes = {"judge": judge, "tuned_against_base": against, "noisiest_training_records": [noisy], **models}
    changes |= {"score_by_category": {text: {"records": 1, "tuned": 2.0, "base": 1.0}}, "worst": {"chrf": [1, 2]}}
    changes |= dict.fromkeys(["no_base", "template", "split", "loss_is", "device"], text)
    changes |= {"config": {text: text}, "versions": {text: text}, "data": {"path": text, "sha256": text}}
    run = made_up.RUN | {"config": {text: text}, "data": {"splits": {text: {text: 1}}}}
    return {"rows": rows, "run": run, **changes}


def test_text_from_outside_stays_text(write: Callable[..., tuple[Seen, str]]) -> None:
    plain, _ = write(**put("plain"))
    seen, markdown = write(**put(HOSTILE))
    assert seen.tags == plain.tags
    assert [name for name, _ in seen.attributes] == [name for name, _ in plain.attributes]
    assert seen.text.count("{{ 7 * 7 }}") == plain.text.count("plain") > 30
    assert json.loads(seen.raw["script"][0])[0]["tuned"]["text"] == HOSTILE
    assert re.search(r"(?<!\\)<", markdown) is None


def test_markdown(write: Callable[..., tuple[Seen, str]]) -> None:
    _, markdown = write()
    title, *_ = lines = markdown.splitlines()
    assert title == "# gpt2-medium, before and after tuning: 60 records of the test split"
    assert "**the tuned model's score differs from its base's by 62.29**" in lines
    assert "**Take care.** only 87% of the answers were scored, fewer than judge.min\\_coverage=0.9" in lines
    assert "| | base | tuned | difference | |" in lines
    [score] = [line for line in lines if line.startswith("| judge's score")]
    assert score.startswith(
        "| judge's score | 18.7 (17.4 to 19.8) | 81.0 (75.3 to 85.9) | +62.3 (56.1 to 68.5) | the tuned"
    )
    assert "Duplicates of training records: 1 exact, 1 near." in lines
    assert_table(markdown, columns=5)


def assert_table(markdown: str, columns: int) -> None:
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(table) > 6
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {columns + 1}


def test_text_from_outside_leaves_a_markdown_table_whole(write: Callable[..., tuple[Seen, str]]) -> None:
    _, markdown = write(**put("a|b\n\n# *c* `d` [e](f) <g> \\|"))
    assert_table(markdown, columns=5)
    assert "a\\|b \\# \\*c\\* \\`d\\` \\[e\\](f) \\<g\\> \\\\\\|" in markdown


ABSENT: dict[str, dict[str, Any]] = {
    "base": {"base": None, "tuned_against_base": None, "no_base": "it does not name one"},
    "judge": {"judge": None, "score_by_category": None},
    "audit": {"judge": made_up.JUDGE | {"audit": None, "pairwise": None, "warning": None}},
    "categories": {"score_by_category": None, "exact_match_by_category": None},
    "duplicates": {"duplicates": None},
    "no duplicates": {"duplicates": {"exact": 0, "near": 0, "without": None}},
    "worst": {"worst": None, "noisiest_training_records": None},
    "worst of other records": {"worst": {"loss": [999]}},
    "run": {"run": None},
    "comparison": {"tuned_against_base": {"loss": None}},
    "all": dict.fromkeys(made_up.summary(made_up.rows(3))) | {"tuned": {}, "run": None},
}


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
        link for link in anchors if not link.startswith("#record-") and ("id", link[1:]) not in seen.attributes
    ] == []


def test_a_model_alone(write: Callable[..., tuple[Seen, str]]) -> None:
    rows = [row | {"base": None} for row in made_up.rows()]
    seen, markdown = write(rows, **ABSENT["base"])
    assert "model, tuned 60 records" in seen.text
    assert "No base beside it: it does not name one." in seen.text
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
    assert "judge" not in re.sub(r"judge\.\w+", "", seen.text)  # keys of the config
    assert seen.text.count("the tuned model's exact_match differs from its base's by 0.80") == 2


def test_without_a_run(write: Callable[..., tuple[Seen, str]]) -> None:
    seen, _ = write(run=None)
    assert "Loss in training" not in seen.text
    assert "training steps" not in seen.text
    assert "The whole config of the evaluation" in seen.text
    assert "The whole config of the training" not in seen.text


def test_no_number_is_finite(write: Callable[..., tuple[Seen, str]]) -> None:
    def nothing(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: nothing(item) for key, item in value.items()}
        return math.nan if isinstance(value, float) else value

    rows, summary = ([nothing(row) for row in made_up.rows()], nothing(made_up.summary(made_up.rows())))
    metrics = [{"step": 1, "epoch": 0.5, "train/loss": math.nan}]
    seen, markdown = write(rows, nothing(made_up.RUN), metrics, **summary)
    assert "nan" not in seen.text + markdown
    assert "Loss in training" not in seen.text


def test_a_full_disk(tmp_path: Path) -> None:
    (tmp_path / ".report.html.part").symlink_to("/dev/full")
    rows = made_up.rows(3)
    with pytest.raises(InputError, match=r"report\.html: cannot be written \(No space left on device\)"):
        write_report(tmp_path, made_up.summary(rows), rows, None, None)


def test_charts_are_drawn_in_the_colours_of_the_page() -> None:
    curves = loss_curves(made_up.metrics())
    assert curves == loss_curves(made_up.metrics())
    assert curves is not None
    assert 'aria-label="Loss curves over the training; they end at: each step 0.137, train 0.037, ' in curves
    assert set(re.findall(r"(?:fill|stroke): ([^;\"]+)", curves)) <= {
        "none",
        *(f"var(--{name})" for name in ("quiet", "line", "tuned", "validation", "best")),
    }
    bars = histogram({"tuned": [0, 50, 100, 100], "base": [1, 2]}, 100, "judge's score")
    assert bars is not None
    assert 'aria-label="Histogram of judge&#39;s score; the means are: base 1.5, tuned 62.5"' in bars


def test_charts_of_nothing() -> None:
    assert loss_curves([]) is None
    assert loss_curves([{"step": 1, "epoch": 0.1, "train/loss": None}]) is None
    assert histogram({"tuned": [], "base": []}, 1, "chrF") is None


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(None), "–"),
        (number(0.80249), "0.802"),
        (number(-0.00001), "0.000"),
        (number(-1.5, 1), "−1.5"),
        (number(12345), "12,345"),
        (number(1e300), "1.00e+300"),
        (signed(0.25), "+0.250"),
        (signed(-0.25), "−0.250"),
        (signed(0.0001), "0.000"),
        (signed(None), "–"),
        (interval([0.25, 0.5], 2), "0.25 to 0.50"),
        (interval([None, 0.5]), ""),
        (interval(None), ""),
        (p_value(0.0), "p < 0.001"),
        (p_value(0.25), "p = 0.250"),
        (p_value(None), ""),
        (duration(40.4), "40 s"),
        (duration(600), "10 min"),
        (duration(9000), "2.5 h"),
        (duration(None), "–"),
        (dict(flat({"a": {"b": {"c": 1}, "d": None}})), {"a.b.c": 1, "a.d": "null"}),
        (dict(flat(None)), {}),
    ],
)
def test_numbers_to_read(shown: Any, expected: Any) -> None:
    assert shown == expected
