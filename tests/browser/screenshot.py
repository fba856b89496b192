"""A picture of the top of a report: `python -m tests.browser.screenshot report.html report.png`."""

import sys
from pathlib import Path

from playwright.sync_api import Browser

from tests.browser.chromium import chromium


def screenshot(browser: Browser, report: Path, picture: Path) -> None:
    """From the title to the end of the curves, 1200 pixels wide."""
    page = browser.new_page(viewport={"width": 1200, "height": 800}, color_scheme="light")
    page.goto(report.resolve().as_uri())
    end = page.locator("#curves").bounding_box()
    assert end, f"{report}: has no curves"
    height = end["y"] + end["height"]
    page.screenshot(
        path=picture, clip={"x": 0, "y": 0, "width": 1200, "height": height}, full_page=True
    )
    page.close()


if __name__ == "__main__":
    with chromium() as chosen:
        screenshot(chosen, Path(sys.argv[1]), Path(sys.argv[2]))
