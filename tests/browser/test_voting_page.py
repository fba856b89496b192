"""The voting page as a browser shows it, by mouse, by keyboard, and on a phone."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from sft.voting.ballots import load_arena
from sft.voting.votes import Vote, VoteFile
from tests.voting.made_up import evaluated, polling
from tests.voting.test_app import voting

HOSTILE = (
    "<img src=x onerror=\"document.title='taken'\"></p>"
    "<script>document.title='taken'</script>\u2028 &amp; `${1}`"
)
RIGHT = [f"The answer is {number}." for number in range(1, 4)]
WRONG = [f"I do not know {number}. " * 40 for number in range(1, 4)]


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    texts = {"alpha": RIGHT, "omega": WRONG}
    return [evaluated(tmp_path / name, text) for name, text in texts.items()]


@pytest.fixture
def show(browser: Browser, runs: list[str], tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """Opens the page; fails if it complains or asks for anything but its server."""
    complaints: list[str] = []
    asked: list[str] = []
    contexts = []
    with polling(load_arena(runs), tmp_path / "votes.jsonl") as url:

        def open_page(width: int = 1100, name: str = "ann", dark: bool = False) -> Page:
            colours = "dark" if dark else "light"
            contexts.append(
                browser.new_context(viewport={"width": width, "height": 700}, color_scheme=colours)
            )
            page = contexts[-1].new_page()
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(url)
            page.keyboard.type(name)
            page.keyboard.press("Enter")
            expect(page.locator("#ballot")).to_be_visible()
            return page

        yield open_page
        for context in contexts:
            context.close()
    assert [text for text in complaints if "ERR_INTERNET_DISCONNECTED" not in text] == []
    assert [address for address in asked if not address.startswith((f"{url}/", "data:,"))] == []


def kept(tmp_path: Path) -> list[Vote]:
    return list(VoteFile(tmp_path / "votes.jsonl").by_key.values())


def test_the_keyboard_alone_votes_on_everything_and_changes_a_vote(
    show: Callable[..., Page], tmp_path: Path
) -> None:
    page = show()
    progress = page.locator("#progress")
    expect(progress).to_have_text("ann: 0 of 3 pairs of answers")
    page.keyboard.press("t")
    expect(progress).to_have_text("ann: 1 of 3 pairs of answers")
    page.keyboard.press("a")
    expect(progress).to_have_text("ann: 2 of 3 pairs of answers")

    page.keyboard.press("u")
    expect(page.locator("[data-choice=left]")).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("x")
    expect(progress).to_have_text("ann: 2 of 3 pairs of answers")
    expect(page.locator("[aria-pressed=true]")).to_have_count(0)
    page.keyboard.press("b")
    expect(page.locator("#end")).to_be_visible()
    expect(page.locator("#ballot")).to_be_hidden()

    votes = kept(tmp_path)
    assert [vote.choice for vote in votes[:2]] == ["tie", "bad"]
    assert votes[2].choice != votes[2].left
    page.get_by_role("link", name="What the votes say").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Win rates")).to_be_visible()


def test_the_tab_key_reaches_each_button(show: Callable[..., Page], tmp_path: Path) -> None:
    page = show()
    expect(page.locator("#question")).to_be_focused()
    reached = []
    for _ in range(6):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.dataset.choice"))
    assert [name for name in reached if name][:4] == ["left", "right", "tie", "bad"]
    page.locator("[data-choice=bad]").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#progress")).to_have_text("ann: 1 of 3 pairs of answers")
    assert [vote.choice for vote in kept(tmp_path)] == ["bad"]


def test_a_click_votes_for_the_answer_it_stands_below_and_no_name_is_shown(
    show: Callable[..., Page], tmp_path: Path
) -> None:
    page = show()
    for number in range(3):
        side = "left" if page.locator("#left").inner_text() in RIGHT else "right"
        for name in ("alpha", "omega"):
            assert name not in page.content()
        page.locator(f"[data-choice={side}]").click()
        expect(page.locator("#progress")).to_have_text(f"ann: {number + 1} of 3 pairs of answers")
    page.get_by_role("link", name="What the votes say").click()
    row = page.get_by_role("row", name="alpha")
    expect(row).to_contain_text("3, 0, 0")


def test_a_key_that_is_held_down_and_a_fast_second_one_vote_once(
    show: Callable[..., Page], tmp_path: Path
) -> None:
    page = show()
    page.keyboard.down("t")
    page.keyboard.down("t")
    page.keyboard.up("t")
    expect(page.locator("#progress")).to_have_text("ann: 1 of 3 pairs of answers")
    assert len(kept(tmp_path)) == 1


def test_letters_of_a_name_are_no_votes(show: Callable[..., Page], tmp_path: Path) -> None:
    page = show(name="tab xu")
    expect(page.locator("#progress")).to_have_text("tab xu: 0 of 3 pairs of answers")
    assert not (tmp_path / "votes.jsonl").exists()


@pytest.mark.parametrize("width", [320, 390])
def test_on_a_phone_the_buttons_stay_in_reach_and_nothing_is_wider_than_the_screen(
    show: Callable[..., Page], width: int
) -> None:
    page = show(width=width)
    expect(page.locator("[data-choice=left]")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") == width
    for button in page.locator("[data-choice]").all():
        box = button.bounding_box()
        assert box
        assert box["height"] >= 44


def test_hostile_texts_show_as_text(browser: Browser, tmp_path: Path, runs: list[str]) -> None:
    question = {
        "instruction": HOSTILE,
        "input": HOSTILE,
        "before": [{"role": "system", "content": HOSTILE}],
    }
    for name in ("one", "two"):
        evaluated(tmp_path / name, [HOSTILE + name], question=question)
    arena = load_arena([str(tmp_path / "one"), str(tmp_path / "two")])
    with polling(arena, tmp_path / "votes.jsonl") as url:
        page = browser.new_page()
        page.goto(url)
        page.keyboard.type("ann")
        page.keyboard.press("Enter")
        expect(page.locator("#left")).to_contain_text("onerror")
        text = page.locator("main").evaluate("main => main.textContent")
        assert text.count(HOSTILE) == 5
        assert page.locator("main img, main script").count() == 0
        assert page.title() == "Which answer is better?"
        page.close()


def test_a_vote_that_did_not_arrive_is_said_and_can_be_given_again(
    show: Callable[..., Page], tmp_path: Path
) -> None:
    page = show()
    page.context.set_offline(True)
    page.keyboard.press("t")
    expect(page.get_by_role("alert")).to_contain_text("Not saved")
    page.context.set_offline(False)
    page.keyboard.press("t")
    expect(page.locator("#progress")).to_have_text("ann: 1 of 3 pairs of answers")
    expect(page.get_by_role("alert")).to_have_text("")
    assert len(kept(tmp_path)) == 1


def test_a_second_server_is_refused_and_a_signal_ends_the_first_with_its_outcome(
    runs: list[str], tmp_path: Path
) -> None:
    with voting(*runs) as (process, _):
        command = [sys.executable, "-m", "sft.arena", *runs, "--port", "0"]
        second = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert second.returncode == 1
        assert "another process collects votes there" in second.stderr
        assert second.stderr.count("\n") == 1
        process.send_signal(signal.SIGINT)
        assert process.stdout
        assert "no vote yet" in process.stdout.read()
        assert process.wait(20) == 0
