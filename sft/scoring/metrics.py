"""How near an answer comes to the expected one, by their texts alone.

    exact_match  the same text, ignoring case, spacing and a final full stop
    token_f1     F1 of the words, without case, punctuation and articles (SQuAD: Rajpurkar et al., 2016)
    rouge_l      F1 of the longest common subsequence of words (ROUGE-L: Lin, 2004)
    chrf         F2, so recall counts more, of character n-grams for n = 1 to 6 (chrF: Popović, 2015)

Every number lies between 0 and 1. Texts are compared in Unicode's form NFC, so an accent may be a character of its own
or not. A combining mark belongs to its letter's word.

Some scripts put no spaces between words: Chinese, Japanese, Thai, Lao, Khmer, Burmese. There a unit is one letter with
its marks, as CMRC 2018 (Cui et al., 2019) and MLQA (Lewis et al., 2020) do for Chinese. These letters are known by
their line break class: ID, CJ, NS and SA of Unicode's Annex 14, Latin of full width left out.
"""

import unicodedata

import regex
from torch import Tensor
from torchmetrics.functional.text import chrf_score, rouge_score, squad

METRICS = ("exact_match", "token_f1", "rouge_l", "chrf")
Scores = dict[str, float]  # by the names above

_UNSPACED = r"[[\p{L}&&[\p{lb=ID}\p{lb=CJ}\p{lb=NS}\p{lb=SA}]]--\p{Script=Latin}]"
_JOINED = r"[\p{M}\u200c\u200d]"  # marks, and the joiners that Persian and Indic words hold
UNIT = regex.compile(rf"{_UNSPACED}{_JOINED}*", regex.V1)
WORD = regex.compile(rf"{UNIT.pattern}|(?:[\p{{L}}\p{{N}}--{_UNSPACED}]{_JOINED}*)+", regex.V1)
SEPARATOR = regex.compile(
    r"[\u0f0b\u0f0c\u1361]"
)  # punctuation that stands between Tibetan and Ethiopic words
PUNCTUATION = regex.compile(r"\p{P}")
FULL_STOPS = tuple(".。｡．।։۔።။។")


def score(answer: str, expected: str) -> Scores:
    """All metrics of one answer. Where one of the texts is empty, they say whether both are."""
    answer, expected = _composed(answer), _composed(expected)
    exact = float(exact_match(answer, expected))
    if not answer.strip() or not expected.strip():
        return dict.fromkeys(METRICS, exact)
    f1, rouge_l = _token_f1(answer, expected, exact), _rouge_l(answer, expected, exact)
    values = (exact, f1, rouge_l, chrf(answer, expected))
    return {name: round(value, 6) for name, value in zip(METRICS, values, strict=True)}


def exact_match(answer: str, expected: str) -> bool:
    return _plain(answer) == _plain(expected)


def _plain(text: str) -> str:
    plain = " ".join(_caseless(text).split())
    return plain[:-1].rstrip() if plain.endswith(FULL_STOPS) else plain


def _composed(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _caseless(text: str) -> str:
    """The text without case, in the same way for every metric that ignores it: "ß" is "ss", which `lower` leaves."""
    return _composed(_composed(text).casefold())


def spaced(text: str) -> str:
    """The text with spaces around each letter of a script that has none between words."""
    found: str = UNIT.sub(r" \g<0> ", text)
    return found


def _token_f1(answer: str, expected: str, exact: float) -> float:
    """`exact` for two texts without words, such as "+" and "-", which SQuAD takes for two equal non-answers.

    SQuAD knows the punctuation of ASCII alone. That of other scripts is taken out here, as MLQA does.
    """
    answer, expected = (
        spaced(PUNCTUATION.sub("", SEPARATOR.sub(" ", _caseless(text))))
        for text in (answer, expected)
    )
    wordless = _squad(answer, "") == _squad(expected, "") == 1
    return exact if wordless else _squad(answer, expected)


def _squad(answer: str, expected: str) -> float:
    answers: dict[str, list[str] | list[int]] = {"text": [expected], "answer_start": [0]}
    return (
        float(squad({"id": "0", "prediction_text": answer}, {"id": "0", "answers": answers})["f1"])
        / 100
    )


def _rouge_l(answer: str, expected: str, exact: float) -> float:
    """`exact` for two texts without words. Words are of any alphabet, where torchmetrics itself would take a to z."""
    if not _words(answer).strip() and not _words(expected).strip():
        return exact
    return float(
        rouge_score(answer, expected, rouge_keys="rougeL", normalizer=_words)["rougeL_fmeasure"]
    )


def _words(text: str) -> str:
    return " ".join(WORD.findall(_caseless(text)))


def chrf(answer: str, expected: str) -> float:
    """The n-grams go no further than the shorter text, as in sacreBLEU, so that "4" for "4" is 1 and not 1/6."""
    answer, expected = _composed(answer), _composed(expected)
    order = min(6, *(len("".join(text.split())) for text in (answer, expected)))
    value = chrf_score([answer], [[expected]], n_char_order=order, n_word_order=0)
    assert isinstance(value, Tensor)  # it is a tuple with return_sentence_level_score=True
    return float(value)
