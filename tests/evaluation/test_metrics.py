import itertools
import math
import random
import socket
import sys
from typing import Any

import pytest
from torchmetrics.functional.text import rouge_score

from sft.evaluation.metrics import METRICS, chrf, exact_match, score


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("Paris", "paris.", True),
        ("  The  cat\nsat. ", "the cat sat", True),
        ("The cat sat .", "The cat sat.", True),
        ("STRASSE", "straße", True),
        ("Paris", "Pari s", False),
        ("Paris!", "Paris", False),
        ("", ".", True),
        ("", "Paris", False),
    ],
)
def test_exact_match_ignores_case_spacing_and_a_final_full_stop(answer: str, expected: str, same: bool) -> None:
    assert exact_match(answer, expected) is same
    assert score(answer, expected)["exact_match"] == float(same)


def test_token_f1_by_hand() -> None:
    scores = score("The cat sat!", "A cat sat down.")  # cat sat | cat sat down: precision 1, recall 2/3
    assert scores["token_f1"] == pytest.approx(0.8, abs=1e-6)


def test_rouge_l_by_hand() -> None:
    scores = score("the cat is on the mat", "The cat sat on a mat.")  # the cat on mat: 4 of 6 and 4 of 6
    assert scores["rouge_l"] == pytest.approx(4 / 6, abs=1e-6)


def test_chrf_by_hand() -> None:
    # n = 1: precision 1, recall 2/3, F2 = 5 * 2/3 / (4 + 2/3); n = 2: precision 1, recall 1/2, F2 = 2.5 / 4.5
    assert chrf("ab", "a bc") == pytest.approx((10 / 14 + 2.5 / 4.5) / 2)
    assert chrf("ab", "xy") == 0


def test_the_same_short_answer_is_a_full_match_in_all_metrics() -> None:
    for text in ("4", "ox", "Paris", "A", "+", "東京", "Москва", "nanana"):
        assert score(text, text) == dict.fromkeys(METRICS, 1.0), text


def test_rouge_is_that_of_torchmetrics() -> None:
    draw = random.Random(0)
    words = ["cat", "catch", "the", "then", "Sat", "on.", "mat", "a", "12"]
    for _ in range(20):
        answer, expected = (" ".join(draw.choices(words, k=draw.randint(1, 12))) for _ in range(2))
        library = rouge_score(answer, expected, rouge_keys="rougeL")["rougeL_fmeasure"]
        assert score(answer, expected)["rouge_l"] == pytest.approx(float(library), abs=1e-6)


def test_every_pair_of_odd_texts_has_numbers_from_0_to_1() -> None:
    odd = ["", " ", "\n\t", ".", "+", "-", "a", "The", "_", "中文", "😀", "x\ty", "\ufffd", "word " * 50]
    for answer, expected in itertools.product(odd, odd):
        for name, value in score(answer, expected).items():
            assert math.isfinite(value), (answer, expected, name)
            assert 0 <= value <= 1, (answer, expected, name)


@pytest.mark.parametrize(("answer", "expected"), [("+", "-"), ("A", ""), ("", "A"), (" ", "Paris"), ("the", "a")])
def test_texts_without_words_do_not_match_each_other(answer: str, expected: str) -> None:
    assert score(answer, expected)["token_f1"] == 0


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a metric opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    score("The cat sat. It slept.", "The cat sat. It ate.")
    assert "nltk" not in sys.modules
