"""The speed of answering, and its share of the memory's, from numbers that were made by hand."""

from types import SimpleNamespace
from typing import Any

import pytest

from sft.evaluation import mbu
from sft.evaluation.mbu import add_speeds, memory_rate, speed_of
from sft.evaluation.summary import table
from sft.gpt2.frozen import freeze, step_bytes
from sft.gpt2.generate import Timing, complete
from sft.gpt2.gpt_config import GPTConfig
from sft.gpt2.model import GPT
from sft.report.page import contents
from sft.scoring.results import AnsweringSpeed, EvaluationSummary, read_summary
from tests.fixtures.record import MADE

C, V, LAYERS = 32, 64, 2
# Of a layer: two LayerNorms; the four matrices; their biases.
MATRICES = LAYERS * 12 * C * C
VECTORS = LAYERS * (4 * C + 9 * C) + 2 * C


def model(**changes: Any) -> GPT:
    sizes = {"n_layer": LAYERS, "n_head": 2, "n_embd": C, "vocab_size": V, "n_positions": 16}
    return GPT(GPTConfig(**sizes | changes)).eval()


@pytest.fixture
def summary() -> EvaluationSummary:
    return read_summary(MADE / "run" / "evaluation")


def test_a_step_reads_the_layers_and_the_head() -> None:
    numbers = MATRICES + VECTORS + V * C
    assert step_bytes(model()) == 4 * numbers
    assert step_bytes(model().bfloat16()) == 2 * numbers
    # A head of its own is read, and the embedding of tokens is not.
    assert step_bytes(model(tie_word_embeddings=False)) == 4 * numbers


def test_a_step_reads_frozen_matrices_in_their_own_form() -> None:
    low = model().bfloat16()
    freeze(low)
    assert step_bytes(low) == 2 * (MATRICES + VECTORS + V * C)

    whole = model().bfloat16()
    freeze(whole, int8=True)
    rows = LAYERS * 9 * C + V
    assert step_bytes(whole) == MATRICES + V * C + 2 * (rows + VECTORS)


@pytest.mark.parametrize(("slots", "steps"), [(1, 10), (2, 6)])
def test_timing_counts_steps_and_their_tokens(slots: int, steps: int) -> None:
    timing = Timing()
    list(complete(model(), [[1, 2], [3]], [6, 4], slots=slots, timing=timing))
    assert (timing.steps, timing.tokens) == (steps, 10)
    assert timing.seconds > 0


def test_the_share_is_what_the_steps_read_beside_what_memory_gives() -> None:
    found = speed_of(Timing(steps=50, tokens=600, seconds=2.0), step_bytes=4_000, rate=1e6)
    assert found == AnsweringSpeed(50, 600, 2.0, tokens_per_sec=300.0, mbu=0.1)


def test_memory_is_read_in_bytes_per_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 4.0, 6.0])
    monkeypatch.setattr(mbu, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    assert memory_rate("cpu", read_bytes=1 << 10) == 512


def test_a_speed_is_given_where_answers_were_made(
    monkeypatch: pytest.MonkeyPatch, summary: EvaluationSummary
) -> None:
    monkeypatch.setattr(mbu, "memory_rate", lambda device: 1e6)
    results: Any = {
        "base": SimpleNamespace(timing=Timing(), step_bytes=4_000),
        "tuned": SimpleNamespace(timing=Timing(50, 600, 2.0), step_bytes=4_000),
    }
    before = table(summary)
    page = contents(summary, [], None, [])
    assert page["speeds"] == []
    add_speeds(summary, results, "cpu")
    assert summary.base is not None
    assert summary.base.answering is None
    assert summary.tuned.answering == speed_of(Timing(50, 600, 2.0), 4_000, 1e6)

    # Both outputs gain their lines, and nothing else changes.
    added = [line for line in table(summary).splitlines() if line not in before.splitlines()]
    assert [line.split()[-2:] for line in added] == [["-", "300"], ["-", "0.100"]]
    now = contents(summary, [], None, [])
    [(label, shown)] = now["speeds"]
    assert "tuned" in label
    assert "300" in shown
    assert "10%" in shown
    changed = {key for key in now if key != "summary" and now[key] != page[key]}
    assert changed == {"speeds"}


def test_memory_is_not_measured_if_all_answers_were_there(
    monkeypatch: pytest.MonkeyPatch, summary: EvaluationSummary
) -> None:
    def measured(device: str) -> float:
        raise AssertionError

    monkeypatch.setattr(mbu, "memory_rate", measured)
    results: Any = {"tuned": SimpleNamespace(timing=Timing(), step_bytes=4_000)}
    add_speeds(summary, results, "cpu")
    assert summary.tuned.answering is None
    assert "MBU" not in table(summary)
