"""The report as a browser shows it. It needs a browser, so it runs apart: `make test-browser`."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from sft.evaluation.labels import Label, read_labels
from tests.browser.screenshot import screenshot
from tests.evaluation import made_up

HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
    " &amp; \" ' \u2028 `${1}` <!-- {{ 7 * 7 }}"
)


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Write a report and open it from the disk.

    The test fails if the page logs an error, or asks for anything but itself.
    """
    complaints: list[str] = []
    asked: list[str] = []
    contexts = []

    def open_page(
        rows: list[Any] | None = None,
        width: int = 1200,
        dark: bool = False,
        to_rows: Any = None,
        **changes: Any,
    ) -> Page:
        rows = made_up.rows() if rows is None else rows
        summary = made_up.summary(made_up.rows(len(rows))) | changes
        made_up.write_report(
            tmp_path,
            summary,
            [row | (to_rows or {}) for row in rows],
            made_up.RUN,
            made_up.metrics(),
        )
        colours = "dark" if dark else "light"
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 800}, color_scheme=colours)
        )
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((tmp_path / "report.html").as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert [
        url for url in asked if url not in ((tmp_path / "report.html").as_uri(), "data:,")
    ] == []


def lines(page: Page) -> Any:
    return page.locator("#table tbody tr")


def column(page: Page, name: str) -> list[float]:
    """The tuned model's numbers in a column of the table, as shown."""
    cells = page.locator(f'#table td[data-label="{name}"]').all_inner_texts()
    return [float(text.split()[0].replace("−", "-").replace("–", "nan")) for text in cells]


def test_it_renders(show: Callable[..., Page]) -> None:
    page = show()
    expect(page.locator("h1")).to_have_text("gpt2-medium, before and after tuning")
    for heading in (
        "Numbers",
        "Curves",
        "Categories",
        "Judge",
        "Where to look first",
        "Records",
        "Data",
        "Settings",
    ):
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("Loss curves"))).to_be_visible()
    expect(page.get_by_role("img", name=re.compile("Histogram of judge's score"))).to_be_visible()
    expect(lines(page)).to_have_count(25)
    expect(page.locator("#found")).to_have_text("1 to 25 of 60")


def test_every_link_leads_somewhere(show: Callable[..., Page]) -> None:
    page = show()
    for link in page.locator("nav a").all():
        assert page.locator(link.get_attribute("href") or "").count() == 1


def test_sorting(show: Callable[..., Page]) -> None:
    page = show()
    header = page.get_by_role("columnheader", name="Loss")
    header.get_by_role("button").click()
    expect(header).to_have_attribute("aria-sort", "ascending")
    ascending = column(page, "Loss")
    assert ascending == sorted(ascending)
    header.get_by_role("button").click()
    expect(header).to_have_attribute("aria-sort", "descending")
    descending = column(page, "Loss")
    assert descending == sorted(descending, reverse=True)
    assert descending[0] == max(round(row["tuned"]["loss"], 2) for row in made_up.rows())
    expect(page.locator("#table th[aria-sort]")).to_have_count(1)


def test_what_has_no_score_comes_last_whichever_way_it_is_sorted(show: Callable[..., Page]) -> None:
    rows = made_up.rows(4)
    for row, score in zip(rows, (None, 7, 90, None), strict=True):
        row["tuned"]["score"] = score
    page = show(rows)
    for order in (["2", "3", "1", "4"], ["3", "2", "1", "4"]):
        page.get_by_role("button", name="Score").click()
        assert [text.split()[0] for text in lines(page).all_inner_texts()] == order


def test_texts_are_sorted_as_texts(show: Callable[..., Page]) -> None:
    page = show()
    page.get_by_role("button", name="Instruction").click()
    assert lines(page).first.get_attribute("id") == "record-1"
    page.get_by_role("button", name="Instruction").click()
    assert lines(page).first.get_attribute("id") == "record-60"


def test_search_and_category(show: Callable[..., Page]) -> None:
    page = show()
    page.get_by_label("Search").fill("SUM OF 41 AND")
    expect(lines(page)).to_have_count(1)
    expect(lines(page)).to_contain_text("The sum of 41 and 44 is 85.")
    page.get_by_label("Search").fill("nothing like this")
    expect(lines(page)).to_have_count(0)
    expect(page.locator("#found")).to_have_text("no record")
    page.get_by_label("Search").fill("")
    page.get_by_label("Category").select_option("capital")
    expect(page.locator("#found")).to_have_text("1 to 20 of 20")


def test_paging(show: Callable[..., Page]) -> None:
    page = show()
    previous, after = (
        page.get_by_role("button", name="Previous"),
        page.get_by_role("button", name="Next"),
    )
    expect(previous).to_be_disabled()
    after.click()
    expect(page.locator("#found")).to_have_text("26 to 50 of 60")
    after.click()
    expect(lines(page)).to_have_count(10)
    expect(after).to_be_disabled()
    page.get_by_label("Page").fill("99")
    page.get_by_label("Page").press("Enter")
    expect(page.get_by_label("Page")).to_have_value("3")
    page.get_by_label("Search").fill("record 7.")
    expect(page.locator("#found")).to_have_text("1 to 1 of 1")


def test_a_person_scores_answers(show: Callable[..., Page]) -> None:
    """Scores outlast the page, and are saved as evaluate.py reads them."""
    page = show()
    save = page.locator("#save")
    expect(save).to_be_disabled()
    page.get_by_label("your score of the tuned answer to record 2", exact=True).fill("85")
    page.get_by_label("your score of the base answer to record 2", exact=True).fill("101")
    page.get_by_label("your score of the base answer to record 3", exact=True).fill("0")
    page.get_by_label("your score of the base answer to record 3", exact=True).blur()
    expect(save).to_have_text("Save your 2 scores")

    page.reload()
    mine = page.get_by_label("your score of the tuned answer to record 2", exact=True)
    expect(mine).to_have_value("85")
    with page.expect_download() as saving:
        save.click()
    labels = read_labels(saving.value.path())
    rows = made_up.rows()
    assert labels == [
        Label(2, "tuned", rows[1]["tuned"]["text"], 85),
        Label(3, "base", rows[2]["base"]["text"], 0),
    ]

    # The order is random, and the judge's scores do not sway the person.
    page.get_by_role("button", name="Yours").click()
    first_cells = lines(page).locator("td:first-child").all_inner_texts()
    shown = [int(re.split(r"\D", text)[0]) for text in first_cells]
    assert shown != sorted(shown)
    assert len(set(shown)) == 25
    expect(page.locator("td.judged").first).to_be_hidden()

    # Another model's answers have no labels.
    other = made_up.summary(rows)["tuned"] | {"sha256": "0" * 64}
    expect(show(tuned=other).locator("#save")).to_be_disabled()


def test_a_record_of_the_worst_is_found_in_the_table(show: Callable[..., Page]) -> None:
    page = show()
    page.get_by_label("Search").fill("nothing like this")
    link = page.locator(".excerpts a").first
    record = link.inner_text()
    link.click()
    line = page.locator(f"#record-{record}")
    expect(line).to_be_in_viewport()
    expect(line).to_have_class("found")


def test_a_long_answer_is_cut_until_it_is_asked_for(show: Callable[..., Page]) -> None:
    rows = made_up.rows(1)
    rows[0]["tuned"]["text"] = "\n".join(f"line {number}" for number in range(1, 31))
    page = show(rows)
    text = page.locator("dd.tuned .clamp")
    before = text.bounding_box()
    page.locator("dd.tuned").get_by_role("button", name="show all").click()
    after = page.locator("dd.tuned div").bounding_box()
    assert before
    assert after

    # 30 lines are shown, not 5.
    assert after["height"] == pytest.approx(before["height"] * 6, rel=0.02)


def test_a_long_conversation_does_not_hide_its_question(show: Callable[..., Page]) -> None:
    turns = [{"role": "system", "content": "Be short."}]
    for number in range(8):
        turns.append({"role": "user", "content": f"question {number}"})
        turns.append({"role": "assistant", "content": f"answer {number}"})
    page = show(made_up.rows(3), to_rows={"before": turns})
    cell = lines(page).first.locator("td").nth(1)
    earlier = cell.locator(".earlier")
    expect(earlier.locator("b")).to_have_text(["system", *["user", "assistant"] * 8])
    expect(cell.locator("> div > .clamp").last).to_contain_text("record 1.")
    assert not earlier.evaluate("(text) => text.scrollHeight === text.clientHeight")
    cell.get_by_role("button", name="show all").click()
    assert earlier.evaluate("(text) => text.scrollHeight === text.clientHeight")

    page.get_by_label("Search").fill("answer 7")
    expect(lines(page)).to_have_count(3)


def test_the_keyboard_reaches_the_sorting(show: Callable[..., Page]) -> None:
    page = show()
    page.get_by_label("Category").focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#table").get_by_role("columnheader", name="Record")).to_have_attribute(
        "aria-sort", "descending"
    )


def test_a_hostile_record_shows_as_text(show: Callable[..., Page]) -> None:
    rows = made_up.rows(3)
    for key in ("instruction", "input", "output", "category"):
        rows[1][key] = HOSTILE
    rows[1]["tuned"] |= {"text": HOSTILE, "reason": HOSTILE}
    rows[1]["base"]["text"] = HOSTILE
    worst = {"loss": [2]}
    page = show(rows, worst=worst, no_base=HOSTILE, template=HOSTILE, config={HOSTILE: HOSTILE})
    assert "taken" not in page.title()
    assert page.locator("img:not([role]), main script").count() == 0
    line = page.locator("#record-2")
    assert line.evaluate("line => line.textContent").count(HOSTILE) == 7
    assert HOSTILE in page.locator(".excerpts").first.evaluate("table => table.textContent")
    assert page.locator("pre").evaluate("pre => pre.textContent") == HOSTILE
    page.get_by_label("Search").fill("onerror")
    expect(lines(page)).to_have_count(1)


def test_ten_thousand_records(show: Callable[..., Page]) -> None:
    page = show(made_up.rows(10_000))
    expect(page.locator("#found")).to_have_text("1 to 25 of 10,000")
    expect(lines(page)).to_have_count(25)
    page.get_by_role("button", name="Loss").click()
    expect(page.get_by_role("columnheader", name="Loss")).to_have_attribute(
        "aria-sort", "ascending"
    )
    page.get_by_label("Search").fill("record 9999.")
    expect(lines(page)).to_have_count(1)
    page.get_by_label("Search").fill("")
    page.get_by_label("Page").fill("400")
    page.get_by_label("Page").press("Enter")
    expect(page.locator("#found")).to_have_text("9,976 to 10,000 of 10,000")
    assert page.evaluate("document.querySelectorAll('*').length") < 5000


@pytest.mark.parametrize("width", [320, 390, 768, 1000])
def test_no_page_is_wider_than_its_window(show: Callable[..., Page], width: int) -> None:
    rows = made_up.rows(30)
    rows[0]["tuned"]["text"] = rows[0]["instruction"] = "long" * 200
    page = show(rows, width=width)
    page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    assert page.evaluate("document.documentElement.scrollWidth") == width


def test_light_and_dark(show: Callable[..., Page]) -> None:
    """Contrast of text and paper, by WCAG: at least 4.5."""
    for dark in (False, True):
        page = show(dark=dark)
        paper = luminance(page, "body", "background-color")
        assert (paper < 0.1) is dark
        for element in ("h1", "p.quiet", "nav a", "figure text", ".hint", ".excerpts a", "#found"):
            ink = luminance(page, element, "fill" if "text" in element else "color")
            assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, element


def luminance(page: Page, selector: str, name: str) -> float:
    style = f"node => getComputedStyle(node).getPropertyValue('{name}')"
    colour = page.locator(selector).first.evaluate(style)
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_report_of_very_little(show: Callable[..., Page]) -> None:
    rows = made_up.rows(1)
    absent = dict.fromkeys(
        [
            "base",
            "judge",
            "tuned_against_base",
            "duplicates",
            "score_by_category",
            "exact_match_by_category",
        ]
    )
    absent |= {"worst": {}, "noisiest_training_records": []}
    nothing = {"text": "", "loss": None, "chrf": None, "finish_reason": "stop"}
    page = show(rows, **absent, to_rows={"category": None, "base": None, "tuned": nothing})
    expect(lines(page)).to_have_count(1)
    expect(lines(page)).to_contain_text("(nothing)")
    expect(page.get_by_label("Category")).to_be_hidden()


def test_the_screenshot(browser: Browser, tmp_path: Path) -> None:
    rows = made_up.rows()
    made_up.write_report(tmp_path, made_up.summary(rows), rows, made_up.RUN, made_up.metrics())
    screenshot(browser, tmp_path / "report.html", tmp_path / "report.png")
    picture = (tmp_path / "report.png").read_bytes()

    # The width is in PNG's first chunk.
    assert int.from_bytes(picture[16:20]) == 1200
    assert len(picture) < 300_000
