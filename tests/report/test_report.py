"""The content of the report's files. How a browser shows them is tested in tests/browser."""

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sft.dataclass_json import from_json, to_json
from sft.errors import InputError
from sft.report.report import (
    duration,
    interval,
    keys_and_values,
    number,
    p_value,
    signed,
)
from sft.scoring.results import RecordResult
from tests.evaluation import made_up
from tests.evaluation.reading import Seen, assert_table

HOSTILE = (
    '</script><script>alert(1)</script></style><img src="http://x/y.png" onerror=alert(1)>'
    "<!-- ' &lt; \u2028 {{ 7 * 7 }}"
)


def test_both_files_and_nothing_else(write: Callable[..., Any], tmp_path: Path) -> None:
    write()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.md"]


def test_the_records_are_in_the_page(write: Callable[..., tuple[Seen, str]]) -> None:
    rows = made_up.rows(3)
    rows[0]["tuned"]["loss"] = math.nan
    seen, _ = write(rows)
    written = json.loads(seen.raw["script"][0])
    assert written[0]["tuned"]["loss"] is None
    assert written[1:] == [to_json(from_json(RecordResult, row)) for row in rows[1:]]


def test_a_page_asks_for_nothing_and_runs_its_own_script_alone(
    write: Callable[..., tuple[Seen, str]],
) -> None:
    seen, _ = write(metrics=made_up.metrics())
    links = [
        value
        for name, value in seen.attributes
        if name in ("src", "href", "xlink:href", "action", "srcset")
    ]
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
    links = [
        value[1:]
        for name, value in seen.attributes
        if name.endswith("href") and value.startswith("#")
    ]
    assert [link for link in links if link not in ids and not link.startswith("record-")] == []


def put(text: str) -> dict[str, Any]:
    """Return arguments of `write` that hold a text wherever one comes from outside."""
    rows = made_up.rows(3)
    for row in rows:
        row |= dict.fromkeys(["instruction", "input", "output", "category"], text)
        row["tuned"] |= {"text": text, "reason": text, "status": text}
        row["base"] |= {"text": text}
    summary = made_up.summary(made_up.rows())
    audit, pairwise = (made_up.JUDGE[key] | {"verdict": text} for key in ("audit", "pairwise"))
    judge = dict.fromkeys(["kind", "model", "prompt", "warning", "url"], text) | {
        "audit": audit,
        "pairwise": pairwise,
        "coverage": {"tuned": 1.0},
    }
    against = {
        key: value | {"verdict": text} for key, value in summary["tuned_against_base"].items()
    }
    noisy = {"record": 1, "loss": 2.0} | dict.fromkeys(["instruction", "input", "output"], text)
    models = {
        name: summary[name] | {"source": text, "revision": text} for name in ("tuned", "base")
    }
    changes = {
        "judge": judge,
        "tuned_against_base": against,
        "noisiest_training_records": [noisy],
        **models,
    }
    changes |= {
        "score_by_category": {text: {"records": 1, "tuned": 2.0, "base": 1.0}},
        "worst": {"chrf": [1, 2]},
    }
    changes |= dict.fromkeys(["no_base", "template", "split", "loss_is", "device"], text)
    changes |= {
        "config": {text: text},
        "versions": {text: text},
        "data": {"path": text, "sha256": text, "splits": {}},
    }
    run = made_up.RUN | {
        "config": {text: text},
        "data": made_up.RUN["data"] | {"splits": {text: {text: 1}}},
    }
    return {"rows": rows, "run": run, **changes}


def test_text_from_outside_stays_text(write: Callable[..., tuple[Seen, str]]) -> None:
    plain, _ = write(**put("plain".ljust(len(HOSTILE), ".")))
    seen, markdown = write(**put(HOSTILE))
    assert seen.tags == plain.tags
    assert [name for name, _ in seen.attributes] == [name for name, _ in plain.attributes]
    assert seen.text.count("{{ 7 * 7 }}") == plain.text.count("plain") > 30
    assert json.loads(seen.raw["script"][0])[0]["tuned"]["text"] == HOSTILE
    assert re.search(r"(?<!\\)<", markdown) is None


def test_the_markdown_holds_the_main_numbers(write: Callable[..., tuple[Seen, str]]) -> None:
    _, markdown = write()
    title, *_ = lines = markdown.splitlines()
    assert title == "# gpt2-medium, before and after tuning: 60 records of the test split"
    assert (
        "**By exact match, the tuned model's exact\\_match differs from its base's by 0.80.**"
        in lines
    )
    assert (
        "**Take care.** only 87% of the answers were scored, fewer than judge.min\\_coverage=0.9"
        in lines
    )
    assert "| | base | tuned | difference | |" in lines
    [score] = [line for line in lines if line.startswith("| judge's score")]
    cells = [cell.strip() for cell in score.strip("|").split("|")]
    assert cells[1:4] == ["18.7 (17.4 to 19.8)", "81.0 (75.3 to 85.9)", "+62.3 (56.1 to 68.5)"]
    [near] = [line for line in lines if line.startswith("Records with a near neighbour")]
    assert "split: 2, 1 of them word for word. Without them: judge's score base" in near
    assert_table(markdown, columns=5)


def test_text_from_outside_leaves_a_markdown_table_whole(
    write: Callable[..., tuple[Seen, str]],
) -> None:
    _, markdown = write(**put("a|b\n\n# *c* `d` [e](f) <g> \\|"))
    assert_table(markdown, columns=5)
    assert "a\\|b \\# \\*c\\* \\`d\\` \\[e\\](f) \\<g\\> \\\\\\|" in markdown


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    (tmp_path / ".report.html.part").symlink_to("/dev/full")
    rows = made_up.rows(3)
    with pytest.raises(
        InputError, match=r"report\.html: cannot be written \(No space left on device\)"
    ):
        made_up.write_report(tmp_path, made_up.summary(rows), rows, None, None)


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
        (
            dict(keys_and_values({"a": {"b": {"c": 1}, "d": None, "e": "x"}, "f": True})),
            {"a.b": '{"c": 1}', "a.d": "null", "a.e": "x", "f": "true"},
        ),
        (dict(keys_and_values(None)), {}),
    ],
)
def test_numbers_to_read(shown: Any, expected: Any) -> None:
    assert shown == expected
