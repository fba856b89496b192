"""Prompts share the decoder, and each gets the answer that it would get alone."""

import queue

import pytest

from sft.gpt2.generate import complete, generate
from sft.gpt2.sampling import Sampling
from sft.gpt2.tokenizer import decode
from sft.inference.models import ChatModel
from sft.inference.stream import AnswerStream
from sft.serving.engine import ClosingError, Engine, FullError, Generation, Piece
from tests.serving.running import Brake, wait_until

PROMPTS = [[5], [7, 8, 9, 10, 11, 12, 13], [30, 2, 30], list(range(40)), [1, 2], [3]]


class Caller:
    """A prompt for an engine, and the pieces of its answer."""

    def __init__(
        self, chat_model: ChatModel, prompt: list[int], max_tokens: int = 12, **options
    ) -> None:
        self.pieces: queue.Queue[Piece] = queue.Queue()
        answer = AnswerStream(chat_model.tokenizer, max_tokens)
        self.generation = Generation(prompt, answer, self.pieces.put, **options)

    def result(self) -> tuple[str, str]:
        """Wait for the end; return the text and the finish reason."""
        text = ""
        finish_reason = None
        while not finish_reason:
            piece, finish_reason, _ = self.pieces.get(timeout=120)
            text += piece
        return text, finish_reason


def greedy(chat_model: ChatModel, prompt: list[int], max_tokens: int = 12) -> str:
    """Return the answer that the prompt gets alone."""
    end = chat_model.tokenizer.eot_token
    [tokens] = generate(chat_model.model, [prompt], max_tokens, eos_id=end)
    return decode(chat_model.tokenizer, tokens)


@pytest.mark.parametrize("slots", [1, 4, 16])
def test_answers_are_those_of_generate(tiny, engine, slots):
    one = engine(tiny, slots)
    callers = [Caller(tiny, prompt) for prompt in PROMPTS]
    for caller in callers:
        one.submit(caller.generation)
    expected = [greedy(tiny, prompt) for prompt in PROMPTS]
    assert [caller.result()[0] for caller in callers] == expected
    assert one.load == (0, 0)


def test_a_sampled_answer_does_not_depend_on_its_neighbours(tiny, engine):
    one = engine(tiny)
    sampling = Sampling(1.0, top_k=50)
    callers = [Caller(tiny, [5])]
    callers += [Caller(tiny, [5], seed=seed, sampling=sampling) for seed in (1, 2, 3)]
    for caller in callers:
        one.submit(caller.generation)

    expected = [greedy(tiny, [5])]
    for seed in (1, 2, 3):
        [drawn] = complete(tiny.model, [[5]], 12, sampling, tiny.tokenizer.eot_token, [seed])
        expected.append(decode(tiny.tokenizer, drawn.tokens))
    assert [caller.result()[0] for caller in callers] == expected
    assert len(set(expected)) == 4


def test_prompts_that_arrive_together_are_decoded_together(tiny, engine):
    one = engine(tiny, slots=4)
    brake = Brake(one)
    callers = [Caller(tiny, prompt, max_tokens=5) for prompt in PROMPTS]
    for caller in callers:
        one.submit(caller.generation)
    brake.release()
    assert [caller.result()[1] for caller in callers] == ["length"] * 6
    assert max(brake.rows) == 4
    assert sum(brake.rows) == 6 * 5

    # Six answers on four slots are two rounds of five steps. The first prompt may begin alone.
    assert len(brake.rows) <= 5 + 5 + 1


def test_a_cancelled_answer_frees_its_slot(tiny, engine):
    one = engine(tiny, slots=1)
    brake = Brake(one)
    running, waiting, last = (Caller(tiny, prompt, max_tokens=90) for prompt in PROMPTS[:3])
    for caller in (running, waiting, last):
        one.submit(caller.generation)
    brake.steps.release(3)
    wait_until(lambda: len(brake.rows) == 3)
    one.cancel(running.generation)
    one.cancel(waiting.generation)
    brake.release()
    assert last.result()[0] == greedy(tiny, PROMPTS[2], max_tokens=90)
    assert len(brake.rows) <= 4 + last.generation.answer.tokens + 1
    assert one.load == (0, 0)
    assert running.generation.answer.tokens <= 4
    assert waiting.generation.answer.tokens == 0


def test_a_full_queue_refuses_a_prompt_until_it_has_room(tiny, engine):
    one = engine(tiny, slots=2, queue=1)
    brake = Brake(one)
    callers = [Caller(tiny, prompt) for prompt in PROMPTS[:4]]
    for caller in callers[:3]:
        one.submit(caller.generation)
    with pytest.raises(FullError):
        one.submit(callers[3].generation)
    brake.release()
    for caller in callers[:3]:
        caller.result()
    wait_until(lambda: one.load == (0, 0))
    one.submit(callers[3].generation)
    assert callers[3].result()[1] == "length"


def test_a_cancelled_prompt_leaves_the_queue(tiny, engine):
    one = engine(tiny, slots=1, queue=2)
    brake = Brake(one)
    callers = [Caller(tiny, prompt) for prompt in PROMPTS[:4]]
    one.submit(callers[0].generation)
    wait_until(lambda: one.load == (1, 0))
    for caller in callers[1:3]:
        one.submit(caller.generation)
    for caller in callers[1:3]:
        one.cancel(caller.generation)
    assert one.load == (1, 0)
    one.submit(callers[3].generation)
    brake.release()
    assert callers[3].result()[1] == "length"


def test_an_empty_prompt_fails_alone(tiny, engine, caplog):
    one = engine(tiny)
    empty = Caller(tiny, [])
    good = Caller(tiny, [5])
    one.submit(empty.generation)
    one.submit(good.generation)
    assert empty.result() == ("", "failed")
    assert good.result()[0] == greedy(tiny, [5])
    assert "a prompt of 0 tokens" in caplog.text


def test_stop_finishes_the_answers_that_were_taken(tiny):
    one = Engine(tiny, slots=2, queue=9)
    callers = [Caller(tiny, prompt) for prompt in PROMPTS]
    for caller in callers:
        one.submit(caller.generation)
    one.stop()
    assert [caller.result()[1] for caller in callers] == ["length"] * 6
    with pytest.raises(ClosingError):
        one.submit(callers[0].generation)
    assert not one._thread.is_alive()


def test_an_engine_whose_model_failed_answers_the_next_prompt(tiny, engine, caplog):
    one = engine(tiny)

    def fail() -> list[tuple[int, int]]:
        raise RuntimeError("out of memory")

    one._decoder.step = fail  # type: ignore[method-assign]
    lost = Caller(tiny, [5])
    one.submit(lost.generation)
    assert lost.result() == ("", "failed")
    wait_until(lambda: one._decoder.step is not fail)
    next_one = Caller(tiny, [5])
    one.submit(next_one.generation)
    assert next_one.result()[0] == greedy(tiny, [5])
    assert "out of memory" in caplog.text
