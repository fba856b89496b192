"""Scores that compare an answer with the expected one.

`METRICS` lists every number that a record has. To add a metric of the texts, write its function and
its entry in `METRICS`. The terminal, the report, the card, `eval.rank` and `--help` take it from
there. Libraries that take seconds to import are imported where they are used, so that the config
can read the names.

    exact_match  the same text, ignoring case, spacing and a final full stop
    token_f1     F1 of the words, without case, punctuation and articles
                 (SQuAD: Rajpurkar et al., 2016)
    rouge_l      F1 of the longest common subsequence of words (ROUGE-L: Lin, 2004)
    chrf         F2, so recall counts more, of character n-grams for n = 1 to 6
                 (chrF: Popović, 2015)

These lie between 0 and 1. Texts are compared in Unicode's form NFC, so it makes no difference
whether an accent is a character of its own. A combining mark belongs to its letter's word.

Some scripts put no spaces between words: Chinese, Japanese, Thai, Lao, Khmer, Burmese. In these,
one letter with its marks counts as a word, as CMRC 2018 (Cui et al., 2019) and MLQA (Lewis et al.,
2020) do for Chinese. The letters are known by their line break class: ID, CJ, NS and SA of
Unicode's Annex 14, without full-width Latin.
"""

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

import regex

# The metrics of an answer's text, by name.
Scores = dict[str, float]

# A unit is one letter of a script without spaces. Joined to it are its marks, and the joiners that
# Persian and Indic words hold.
_UNSPACED = r"[[\p{L}&&[\p{lb=ID}\p{lb=CJ}\p{lb=NS}\p{lb=SA}]]--\p{Script=Latin}]"
_JOINED = r"[\p{M}\u200c\u200d]"
UNIT = regex.compile(rf"{_UNSPACED}{_JOINED}*", regex.V1)
WORD = regex.compile(rf"{UNIT.pattern}|(?:[\p{{L}}\p{{N}}--{_UNSPACED}]{_JOINED}*)+", regex.V1)

# Punctuation that separates Tibetan and Ethiopic words.
SEPARATOR = regex.compile(r"[\u0f0b\u0f0c\u1361]")
PUNCTUATION = regex.compile(r"\p{P}")
FULL_STOPS = tuple(".。｡．।։۔።။។")


def score(answer: str, expected: str) -> Scores:
    """Return the metrics of an answer's text.

    If one of the texts is empty, every metric is 1 if both are, and 0 otherwise.
    """
    answer = _composed(answer)
    expected = _composed(expected)
    if not answer.strip() or not expected.strip():
        return dict.fromkeys(TEXT_METRICS, exact_match(answer, expected))
    scores = {}
    for metric in METRICS:
        if metric.compare:
            scores[metric.name] = round(metric.compare(answer, expected), 6)
    return scores


def exact_match(answer: str, expected: str) -> float:
    """Return 1 if the texts are the same but for case, spacing and a final full stop, else 0."""
    return float(same_text(answer, expected))


def same_text(one: str, other: str) -> bool:
    """Return whether two texts are the same but for case, spacing and a final full stop."""
    return _plain(one) == _plain(other)


def _plain(text: str) -> str:
    plain = " ".join(_caseless(text).split())
    return plain[:-1].rstrip() if plain.endswith(FULL_STOPS) else plain


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _caseless(text: str) -> str:
    """Return the text without case, as every metric that ignores case sees it.

    `casefold` makes "ß" the same as "ss", which `lower` does not.
    """
    return _composed(_composed(text).casefold())


def spaced(text: str) -> str:
    """Return the text with spaces around each letter of a script that has none between words."""
    found: str = UNIT.sub(r" \g<0> ", text)
    return found


def token_f1(answer: str, expected: str) -> float:
    """Return SQuAD's F1 of the words.

    SQuAD strips ASCII punctuation alone. Here the punctuation of other scripts is removed too, as
    in MLQA. SQuAD also takes two texts without words, such as "+" and "-", for equal. Here they
    must match exactly.
    """
    words = [
        spaced(PUNCTUATION.sub("", SEPARATOR.sub(" ", _caseless(text))))
        for text in (answer, expected)
    ]
    if _squad(words[0], "") == _squad(words[1], "") == 1:
        return exact_match(answer, expected)
    return _squad(words[0], words[1])


def _squad(answer: str, expected: str) -> float:
    from torchmetrics.functional.text import squad

    answers: dict[str, list[str] | list[int]] = {"text": [expected], "answer_start": [0]}
    found = squad({"id": "0", "prediction_text": answer}, {"id": "0", "answers": answers})
    return float(found["f1"]) / 100


def rouge_l(answer: str, expected: str) -> float:
    """Return the F1 of the longest common subsequence of words.

    Words are of any alphabet; torchmetrics by itself would know only a to z. Two texts without
    words must match exactly.
    """
    if not _words(answer).strip() and not _words(expected).strip():
        return exact_match(answer, expected)
    from torchmetrics.functional.text import rouge_score

    found = rouge_score(answer, expected, rouge_keys="rougeL", normalizer=_words)
    return float(found["rougeL_fmeasure"])


def _words(text: str) -> str:
    return " ".join(WORD.findall(_caseless(text)))


def chrf(answer: str, expected: str) -> float:
    """Return the F2 of the character n-grams.

    They are no longer than the shorter text, as in sacreBLEU. So "4" for "4" is 1, and not 1/6.
    """
    from torch import Tensor
    from torchmetrics.functional.text import chrf_score

    answer = _composed(answer)
    expected = _composed(expected)
    order = min(6, *(len("".join(text.split())) for text in (answer, expected)))
    value = chrf_score([answer], [[expected]], n_char_order=order, n_word_order=0)

    # With return_sentence_level_score=True it would be a tuple.
    assert isinstance(value, Tensor)
    return float(value)


@dataclass(frozen=True)
class Metric:
    """A number that each record has, and its mean over the records.

    Attributes:
        name: its key in records.jsonl and summary.json, and its name in `eval.rank`.
        label: its name for people.
        short: its name in a narrow column.
        hint: what it measures, for people.
        compare: computes it from an answer and the expected answer, from 0 to 1. None: the metric
            does not compare texts.
        lower_is_better: whether a lower number is the better one.
        top: the largest value that it can have; None: there is no limit.
        digits: how many to show after the decimal point.
        unit: for people; empty if it has none.
    """

    name: str
    label: str
    short: str
    hint: str
    compare: Callable[[str, str], float] | None = None
    lower_is_better: bool = False
    top: float | None = 1
    digits: int = 3
    unit: str = ""

    @property
    def long_label(self) -> str:
        """The label with the unit."""
        return f"{self.label}, {self.unit}" if self.unit else self.label


METRICS = (
    Metric(
        "exact_match",
        "exact match",
        "Exact",
        "the same text, but for case and spacing",
        compare=exact_match,
    ),
    Metric("token_f1", "token F1", "F1", "words in common", compare=token_f1),
    Metric(
        "rouge_l",
        "ROUGE-L",
        "ROUGE",
        "words in common, in the same order",
        compare=rouge_l,
    ),
    Metric("chrf", "chrF", "chrF", "groups of characters in common", compare=chrf),
    Metric(
        "loss",
        "loss",
        "Loss",
        "nats per token; lower is better",
        lower_is_better=True,
        top=None,
        unit="nats per token of the expected answers",
    ),
    Metric("score", "judge's score", "Score", "from 0 to 100", top=100, digits=1),
)
BY_NAME = {metric.name: metric for metric in METRICS}

# The names of the metrics that are computed from an answer's text.
TEXT_METRICS = tuple(metric.name for metric in METRICS if metric.compare)
