"""The page of `python -m sft.data --html` in a browser, on a desk and on a phone."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from sft.checkpoint.folder import load_pretrained
from sft.data.doctor import examine
from sft.data.records import Record, Turn
from sft.prompts import PROMPTS
from sft.report.data import write_page

TALK = (Turn("user", "What is the plural of box?"), Turn("assistant", "boxes"))
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=alert(1)>"
RECORDS = [
    *(Record(f"Name the number {number}.", "", f"It is {number}.") for number in range(20)),
    Record("And of fox?", "", "foxes", before=TALK),
    Record(HOSTILE, HOSTILE, HOSTILE),
    Record("x" * 30_000, "", "long"),
    Record("مرحبا", "你好", "שלום"),
    Record("Name the number 1.", "", ""),
]
SPLITS = {"train": range(15), "test": range(15, 20), "validation": range(20, 25)}


@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_of_the_data_renders(browser: Browser, tmp_path: Path, width: int) -> None:
    nano = load_pretrained("gpt2-nano", device="meta")
    found = examine(RECORDS, SPLITS, PROMPTS["alpaca"], nano.tokenizer, context=256)
    sizes = {name: len(rows) for name, rows in SPLITS.items()}
    file = tmp_path / "data.html"
    write_page(file, found, "mine.json", "25 records", "in tokens", sizes, [20, 21, 22])

    complaints: list[str] = []
    asked: list[str] = []
    page = browser.new_page(viewport={"width": width, "height": 800})
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(file.as_uri())
    expect(page.locator("h1")).to_have_text("mine.json")
    expect(page).to_have_title("mine.json: 25 records")
    page.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")

    # All columns of the records are on the screen, and nothing is wider than it.
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for table in page.locator("table.excerpts").all():
        box = table.bounding_box()
        assert box
        assert box["x"] + box["width"] <= width
    expect(page.get_by_text("foxes").first).to_be_visible()
    assert complaints == []
    assert [url for url in asked if url not in (file.as_uri(), "data:,")] == []
    page.close()
