"""Requests share the decoder, and each gets what it would get alone."""

import queue
import time
from collections.abc import Callable

import pytest

from sft.gpt2.generate import complete, generate
from sft.gpt2.sampling import Sampling
from sft.gpt2.tokenizer import decode
from sft.inference.models import Voice
from sft.inference.stream import Answer
from sft.serving.engine import ClosingError, Engine, FullError, Piece, Request
from tests.serving.running import Brake

PROMPTS = [[5], [7, 8, 9, 10, 11, 12, 13], [30, 2, 30], list(range(40)), [1, 2], [3]]


class Asked:
    """A request, and what it is told."""

    def __init__(self, voice: Voice, prompt: list[int], tokens: int = 12, **options) -> None:
        self.pieces: queue.Queue[Piece] = queue.Queue()
        self.request = Request(prompt, Answer(voice.tokenizer, tokens), self.pieces.put, **options)

    def result(self) -> tuple[str, str]:
        text, finish_reason = "", None
        while not finish_reason:
            piece, finish_reason = self.pieces.get(timeout=20)
            text += piece
        return text, finish_reason


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("slots", [1, 4, 16])
def test_answers_are_those_of_generate(tiny, engine, slots):
    one = engine(tiny, slots)
    asked = [Asked(tiny, prompt) for prompt in PROMPTS]
    for each in asked:
        one.submit(each.request)
    expected = generate(tiny.model, PROMPTS, 12, eos_id=tiny.tokenizer.eot_token)
    assert [each.result()[0] for each in asked] == [
        decode(tiny.tokenizer, tokens) for tokens in expected
    ]
    assert one.load == (0, 0)


def test_sampled_beside_greedy(tiny, engine):
    one, sampling = engine(tiny), Sampling(1.0, top_k=50)
    asked = [
        Asked(tiny, [5], seed=seed, sampling=sampling if seed else Sampling()) for seed in range(4)
    ]
    for each in asked:
        one.submit(each.request)
    end = tiny.tokenizer.eot_token
    greedy = next(complete(tiny.model, [[5]], 12, eos_id=end))
    drawn = [next(complete(tiny.model, [[5]], 12, sampling, end, [seed])) for seed in range(1, 4)]
    expected = [decode(tiny.tokenizer, found.tokens) for found in [greedy, *drawn]]
    assert [each.result()[0] for each in asked] == expected
    assert len(set(expected)) == 4


def test_what_arrives_together_is_decoded_together(tiny, engine):
    one = engine(tiny, slots=4)
    brake = Brake(one)
    asked = [Asked(tiny, prompt, tokens=5) for prompt in PROMPTS]
    for each in asked:
        one.submit(each.request)
    brake.release()
    assert [each.result()[1] for each in asked] == ["length"] * 6
    assert max(brake.rows) == 4
    assert sum(brake.rows) == 6 * 5
    assert len(brake.rows) <= 5 + 5 + 1  # the first may have begun alone


def test_a_request_given_up_makes_room(tiny, engine):
    one = engine(tiny, slots=1)
    brake = Brake(one)
    first, second, third = (Asked(tiny, prompt, tokens=90) for prompt in PROMPTS[:3])
    for each in (first, second, third):
        one.submit(each.request)
    brake.steps.release(3)
    wait_until(lambda: len(brake.rows) == 3)
    one.cancel(first.request)
    one.cancel(second.request)  # which still waits
    brake.release()
    expected = generate(tiny.model, [PROMPTS[2]], 90, eos_id=tiny.tokenizer.eot_token)[0]
    assert third.result()[0] == decode(tiny.tokenizer, expected)
    assert len(brake.rows) <= 4 + len(expected) + 1
    assert one.load == (0, 0)
    assert first.request.answer.tokens <= 4
    assert second.request.answer.tokens == 0


def test_the_queue_has_an_end(tiny, engine):
    one = engine(tiny, slots=2, queue=1)
    brake = Brake(one)
    asked = [Asked(tiny, prompt) for prompt in PROMPTS[:4]]
    for each in asked[:3]:
        one.submit(each.request)
    with pytest.raises(FullError):
        one.submit(asked[3].request)
    brake.release()
    for each in asked[:3]:
        each.result()
    wait_until(lambda: one.load == (0, 0))
    one.submit(asked[3].request)
    assert asked[3].result()[1] == "length"


def test_what_is_given_up_while_it_waits_leaves_the_queue(tiny, engine):
    one = engine(tiny, slots=1, queue=2)
    brake = Brake(one)
    asked = [Asked(tiny, prompt) for prompt in PROMPTS[:4]]
    one.submit(asked[0].request)
    wait_until(lambda: one.load == (1, 0))
    for each in asked[1:3]:
        one.submit(each.request)
    for each in asked[1:3]:
        one.cancel(each.request)
    assert one.load == (1, 0)
    one.submit(asked[3].request)
    brake.release()
    assert asked[3].result()[1] == "length"


def test_a_question_without_tokens_is_no_end(tiny, engine, caplog):
    one = engine(tiny)
    nothing, good = Asked(tiny, []), Asked(tiny, [5])
    one.submit(nothing.request)
    one.submit(good.request)
    assert nothing.result() == ("", "failed")
    assert good.result()[0] == decode(tiny.tokenizer, generate(tiny.model, [[5]], 12)[0])
    assert "cannot be read" in caplog.text


def test_stop_finishes_what_was_taken(tiny):
    one = Engine(tiny, slots=2, queue=9)
    asked = [Asked(tiny, prompt) for prompt in PROMPTS]
    for each in asked:
        one.submit(each.request)
    one.stop()
    assert [each.result()[1] for each in asked] == ["length"] * 6
    with pytest.raises(ClosingError):
        one.submit(asked[0].request)
    assert not one._thread.is_alive()


def test_a_failure_is_told_and_survived(tiny, engine, caplog):
    one = engine(tiny)

    def fail() -> list[tuple[int, int]]:
        raise RuntimeError("out of memory")

    one._decoder.step = fail  # type: ignore[method-assign]
    lost = Asked(tiny, [5])
    one.submit(lost.request)
    assert lost.result() == ("", "failed")
    wait_until(lambda: one._decoder.step is not fail)
    again = Asked(tiny, [5])
    one.submit(again.request)
    assert again.result()[0] == decode(tiny.tokenizer, generate(tiny.model, [[5]], 12)[0])
    assert "out of memory" in caplog.text
