"""The report, as a test reads it."""

import re
from html.parser import HTMLParser


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


def assert_table(markdown: str, columns: int) -> None:
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len(table) > 6
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {columns + 1}
