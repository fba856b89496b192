"""The server's page, on a server with the embedded model and another beside it."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from playwright.sync_api import Browser, Page, expect

from sft.checkpoint.folder import load_pretrained
from sft.gpt2.generate import generate
from sft.inference.models import ChatModel
from sft.prompts import PROMPTS
from sft.serving.engine import Engine
from tests.serving.running import Brake, running

HOSTILE = (
    "<img src=x onerror=\"document.title='taken'\"></textarea>"
    "<script>document.title='taken'</script>"
)


@pytest.fixture
def engines() -> Iterator[dict[str, Engine]]:
    made = {}
    for name in ("tuned", "base"):
        nano = load_pretrained("gpt2-nano")
        # Another model, so that the answers can be told apart.
        if name == "tuned":
            nano.model.wpe.weight.data *= 0.5
        made[name] = Engine(ChatModel(nano, PROMPTS["alpaca"]), slots=4, queue=4)
    yield made
    for engine in made.values():
        engine.stop()


@pytest.fixture
def show(browser: Browser, engines: dict[str, Engine]) -> Iterator[Callable[..., Page]]:
    """Opens the page; fails if it complains or asks for anything but its server."""
    complaints: list[str] = []
    asked: list[str] = []
    contexts = []
    with running(engines, max_tokens=60) as url:

        def open_page(width: int = 1100, dark: bool = False) -> Page:
            colours = "dark" if dark else "light"
            contexts.append(
                browser.new_context(viewport={"width": width, "height": 800}, color_scheme=colours)
            )
            page = contexts[-1].new_page()
            page.on("console", lambda message: complaints.append(message.text))
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("request", lambda request: asked.append(request.url))
            page.goto(url)
            return page

        yield open_page
        for context in contexts:
            context.close()
    assert [text for text in complaints if "429" not in text] == []
    assert [address for address in asked if not address.startswith((f"{url}/", "data:,"))] == []


def ask(page: Page, instruction: str, input: str = "") -> None:
    page.get_by_role("textbox", name="Instruction", exact=True).fill(instruction)
    page.get_by_label("Input").fill(input)
    page.get_by_role("button", name="Ask").click()


def answered(page: Page, name: str) -> str:
    box = page.locator(f"section.{name}").first
    expect(box).not_to_have_attribute("aria-busy", "true", timeout=20_000)
    return box.locator("p").text_content() or ""


def said(engine: Engine, instruction: str, input: str = "", earlier: Sequence = ()) -> str:
    chat_model = engine.chat_model
    prompt = chat_model.prompt(instruction, input, earlier)
    end = chat_model.tokenizer.eot_token
    [tokens] = generate(chat_model.model, [prompt], 60, eos_id=end)
    return chat_model.tokenizer.decode(tokens)


def test_tuned_beside_base(show: Callable[..., Page], engines: dict[str, Engine]) -> None:
    page = show()
    ask(page, "What is the plural of this noun?", "box")
    answers = {name: answered(page, name) for name in engines}
    assert answers == {
        name: said(engine, "What is the plural of this noun?", "box")
        for name, engine in engines.items()
    }
    assert answers["tuned"] != answers["base"]
    tuned, base = (page.locator(f"section.{name}").bounding_box() for name in ("tuned", "base"))
    assert tuned["y"] == base["y"]
    assert tuned["x"] < base["x"]
    expect(page.locator("section.tuned .note")).to_contain_text("tokens")


def test_answers_grow_and_can_be_stopped(
    show: Callable[..., Page], engines: dict[str, Engine]
) -> None:
    brakes = {name: Brake(engine) for name, engine in engines.items()}
    page = show()
    ask(page, "Name an animal.")
    for brake in brakes.values():
        brake.steps.release(8)
    for name, engine in engines.items():
        whole = said(engine, "Name an animal.")
        begun = page.locator(f"section.{name} p")
        expect(begun).not_to_be_empty()
        assert whole.startswith(begun.text_content() or "")
        assert len(begun.text_content() or "") < len(whole)
    expect(page.get_by_role("button", name="Ask")).to_be_disabled()
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("section.tuned .note")).to_have_text("stopped")
    for brake in brakes.values():
        brake.release()
    expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    ask(page, "Name an animal.")
    assert answered(page, "tuned") == said(engines["tuned"], "Name an animal.")

    # The stopped answer was decoded no further.
    assert all(sum(brake.rows) <= 9 + 60 + 1 for brake in brakes.values())


def test_texts_stay_texts(show: Callable[..., Page]) -> None:
    page = show()
    ask(page, HOSTILE, HOSTILE)
    answered(page, "tuned")
    assert page.title() == "Ask the tuned model"
    assert page.locator("article img, article script").count() == 0
    expect(page.locator(".question")).to_contain_text(HOSTILE)


def talk(engines: dict[str, Engine]) -> None:
    """Make the models ones that are shown earlier turns."""
    for engine in engines.values():
        engine.chat_model = replace(engine.chat_model, takes_earlier_turns=True)


def test_a_conversation_is_held_with_each_model(
    show: Callable[..., Page], engines: dict[str, Engine]
) -> None:
    talk(engines)
    page = show()
    page.get_by_label("System").fill("Be short.")
    for turn, question in enumerate(("Name an animal.", "And another?")):
        ask(page, question)
        for name in engines:
            box = page.locator(f"section.{name}").nth(turn)
            expect(box).not_to_have_attribute("aria-busy", "true", timeout=20_000)
    for name, engine in engines.items():
        first, second = page.locator(f"section.{name} p").all_text_contents()
        told = [("system", "Be short.")]
        assert first == said(engine, "Name an animal.", earlier=told)
        told += [("user", "Name an animal."), ("assistant", first)]
        assert second == said(engine, "And another?", earlier=told)
    assert page.locator(".question").all_text_contents() == ["Name an animal.", "And another?"]
    expect(page.get_by_role("textbox", name="Instruction", exact=True)).to_be_focused()
    form = page.locator("#form").bounding_box()
    assert form["y"] > page.locator("section.tuned").last.bounding_box()["y"]

    page.get_by_role("button", name="New conversation").click()
    expect(page.locator("article")).to_have_count(0)
    ask(page, "Name an animal.")
    told = [("system", "Be short.")]
    assert answered(page, "tuned") == said(engines["tuned"], "Name an animal.", earlier=told)


def test_the_page_asks_for_the_servers_key(browser: Browser, engines: dict[str, Engine]) -> None:
    with running(engines, max_tokens=20, key="sesame") as url:
        page = browser.new_page()
        page.on("dialog", lambda dialog: dialog.accept("sesame"))
        page.goto(url)
        ask(page, "Name an animal.")
        assert said(engines["base"], "Name an animal.").startswith(answered(page, "base"))
        page.close()


def test_enter_asks_and_the_newest_question_stands_first(show: Callable[..., Page]) -> None:
    page = show()
    for question in ("One?", "Two?"):
        page.get_by_role("textbox", name="Instruction", exact=True).fill(question)
        page.get_by_role("textbox", name="Instruction", exact=True).press("Enter")
        answered(page, "tuned")
        answered(page, "base")
        expect(page.get_by_role("button", name="Ask")).to_be_enabled()
    assert page.locator(".question").all_text_contents() == ["Two?", "One?"]


def test_what_the_server_refuses_is_shown(
    show: Callable[..., Page], engines: dict[str, Engine]
) -> None:
    for engine in engines.values():
        engine.slots = engine.queue = 0
    page = show()
    ask(page, "Hello.")
    assert answered(page, "tuned") == "0 questions are being answered and 0 wait; ask again later"


@pytest.mark.parametrize(
    ("width", "dark"), [(1100, False), (1100, True), (360, False), (360, True)]
)
def test_it_fits(show: Callable[..., Page], width: int, dark: bool) -> None:
    page = show(width, dark)
    ask(page, "What is the plural of this noun?", "x" * 200)
    answered(page, "tuned")
    answered(page, "base")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == ("rgb(20, 22, 26)" if dark else "rgb(255, 255, 255)")
