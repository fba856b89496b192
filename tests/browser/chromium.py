"""The system's Chromium, driven by Playwright, which brings no browser of its own here."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser. $CHROMIUM names one that is not called `chromium`."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    assert path, "chromium: not found; apt-get install chromium, or give CHROMIUM=/path/to/it"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
