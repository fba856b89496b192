"""Metrics by hand, on texts of many scripts, and the table that lists them."""

import itertools
import math
import random
import socket
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any, get_args

import pytest
from torchmetrics.functional.text import rouge_score

from sft.config.help import all_comments
from sft.config.schema import OneOf, Rank
from sft.metrics import BY_NAME, METRICS, TEXT_METRICS, chrf, exact_match, score, spaced

ROOT = Path(__file__).parents[1]


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
        ("東京。", "東京", True),
        ("वह है ।", "वह है", True),
        ("لڑکا ہے۔", "لڑکا ہے", True),
        ("लड़का", "लड़की", False),
    ],
)
def test_exact_match_ignores_case_spacing_and_a_final_full_stop(
    answer: str, expected: str, same: bool
) -> None:
    assert exact_match(answer, expected) == float(same)
    assert score(answer, expected)["exact_match"] == float(same)


@pytest.mark.parametrize(
    ("answer", "expected"), [("STRASSE 5", "Straße 5"), ("ﬁn", "FIN"), ("ΣΟΦΟΣ", "σοφος")]
)
def test_words_are_without_case_as_in_exact_match(answer: str, expected: str) -> None:
    scores = score(answer, expected)
    assert [scores[name] for name in ("exact_match", "token_f1", "rouge_l")] == pytest.approx(
        [1.0, 1.0, 1.0]
    )


def test_token_f1_by_hand() -> None:
    scores = score(
        "The cat sat!", "A cat sat down."
    )  # cat sat | cat sat down: precision 1, recall 2/3
    assert scores["token_f1"] == pytest.approx(0.8, abs=1e-6)


def test_rouge_l_by_hand() -> None:
    scores = score(
        "the cat is on the mat", "The cat sat on a mat."
    )  # the cat on mat: 4 of 6 and 4 of 6
    assert scores["rouge_l"] == pytest.approx(4 / 6, abs=1e-6)


def test_chrf_by_hand() -> None:
    # n = 1: precision 1, recall 2/3, F2 = 5 * 2/3 / (4 + 2/3)
    # n = 2: precision 1, recall 1/2, F2 = 2.5 / 4.5
    assert chrf("ab", "a bc") == pytest.approx((10 / 14 + 2.5 / 4.5) / 2)
    assert chrf("ab", "xy") == 0


def test_the_same_short_answer_is_a_full_match_in_all_metrics() -> None:
    for text in ("4", "ox", "Paris", "A", "+", "東京", "Москва", "nanana"):
        assert score(text, text) == dict.fromkeys(TEXT_METRICS, 1.0), text


def test_rouge_is_that_of_torchmetrics() -> None:
    draw = random.Random(0)
    words = ["cat", "catch", "the", "then", "Sat", "on.", "mat", "a", "12"]
    for _ in range(20):
        answer, expected = (" ".join(draw.choices(words, k=draw.randint(1, 12))) for _ in range(2))
        library = rouge_score(answer, expected, rouge_keys="rougeL")["rougeL_fmeasure"]
        assert score(answer, expected)["rouge_l"] == pytest.approx(float(library), abs=1e-6)


ACCENTS = [
    "cafe\u0301 cre\u0300me",
    "ताज़ा ड़",
    "Việt Nam",
    "한국어 문장",
    "ἀλήθεια",
    "שִׁיר",
    "كِتَابٌ",
    "q\u0323\u0307 x",
]


@pytest.mark.parametrize("text", ACCENTS)
def test_the_form_of_an_accent_changes_no_metric(text: str) -> None:
    forms = [unicodedata.normalize(form, text) for form in ("NFC", "NFD")]
    for answer, expected in itertools.product([text, *forms], repeat=2):
        assert score(answer, expected) == dict.fromkeys(TEXT_METRICS, 1.0)
        assert chrf(answer, expected) == 1


@pytest.mark.parametrize(
    ("answer", "expected", "shared"),
    [
        ("वह लड़का है", "वह लड़की है", 2 / 3),
        ("அவன் வந்தான் இன்று", "அவள் வந்தாள் இன்று", 1 / 3),
        ("সে কলা খায়", "সে কলি খায়", 2 / 3),
        ("هَذَا كِتَابٌ", "هَذَا كُتُبٌ", 1 / 2),
        ("q\u0323 x", "q\u0307 x", 1 / 2),
        ("می\u200cخواهم بروم", "می\u200cخواهد بروم", 1 / 2),
        ("हाँ, वह “घर” गया।", "हाँ वह घर गया", 1),
        ("ཀ་ཁ་ག", "ཀ་ཁ་ང", 2 / 3),
    ],
)
def test_words_keep_their_combining_marks(answer: str, expected: str, shared: float) -> None:
    scores = score(answer, expected)
    assert scores["token_f1"] == scores["rouge_l"] == pytest.approx(shared, abs=1e-6)


@pytest.mark.parametrize(
    ("answer", "expected", "shared", "of"),
    [
        ("東京都。", "東京府", 2, 3),
        ("コーヒー", "コーラー", 3, 4),
        ("我有3只猫", "我有4只猫", 4, 5),
        ("ของดี", "ของดู", 3, 4),  # a letter and its vowel sign are one unit
        ("ຂອງ", "ຂອນ", 2, 3),
        ("ខ្មែរ", "ខ្មែន", 2, 3),
        ("မြန်မာ", "မြန်မျ", 2, 3),
        ("時々", "時時", 1, 2),
    ],
)
def test_scripts_without_spaces_are_compared_letter_by_letter(
    answer: str, expected: str, shared: int, of: int
) -> None:
    scores = score(answer, expected)
    assert scores["token_f1"] == scores["rouge_l"] == pytest.approx(shared / of, abs=1e-6)


def test_only_letters_of_scripts_without_spaces_stand_alone() -> None:
    assert spaced("日本 GPT-2").split() == ["日", "本", "GPT-2"]
    for text in ("한국어 문장", "नमस्ते दुनिया", "ＡＢＣ", "😀😀 ok", "it's 1,234"):
        assert spaced(text) == text


def test_every_pair_of_odd_texts_has_numbers_from_0_to_1() -> None:
    odd = ["\u0301", "❤\ufe0f", "\u200d", "。", "ा"]
    odd += [
        "",
        " ",
        "\n\t",
        ".",
        "+",
        "-",
        "a",
        "The",
        "_",
        "中文",
        "😀",
        "x\ty",
        "\ufffd",
        "word " * 50,
    ]
    for answer, expected in itertools.product(odd, odd):
        for name, value in score(answer, expected).items():
            assert math.isfinite(value), (answer, expected, name)
            assert 0 <= value <= 1, (answer, expected, name)


@pytest.mark.parametrize(
    ("answer", "expected"), [("+", "-"), ("A", ""), ("", "A"), (" ", "Paris"), ("the", "a")]
)
def test_texts_without_words_do_not_match_each_other(answer: str, expected: str) -> None:
    assert score(answer, expected)["token_f1"] == 0


def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a metric opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    score("The cat sat. It slept.", "The cat sat. It ate.")
    assert "nltk" not in sys.modules


def test_a_sweep_can_be_ordered_by_each_metric() -> None:
    _, options = get_args(Rank)
    assert options == OneOf(("validation_loss", *BY_NAME))
    comment = all_comments(ROOT / "conf", "train")["eval.rank"]
    assert [name for name in BY_NAME if name not in comment] == []


def test_the_config_reads_the_names_without_importing_torch() -> None:
    code = "import sys, sft.config.loading; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_the_names_of_metrics_are_unique() -> None:
    assert len(BY_NAME) == len(METRICS)
    assert len({metric.label for metric in METRICS}) == len(METRICS)


def test_the_metrics_of_an_answer_are_those_of_the_table() -> None:
    for answer in ("one two", ""):
        assert list(score(answer, "one two three")) == list(TEXT_METRICS)
    for metric in METRICS:
        if metric.compare:
            assert score("one", "one two")[metric.name] == pytest.approx(
                metric.compare("one", "one two"), abs=1e-6
            )


def test_only_the_loss_is_better_when_lower() -> None:
    assert [metric.name for metric in METRICS if metric.lower_is_better] == ["loss"]
