"""How near an answer comes to the expected one, by their texts alone.

    exact_match  the same text, ignoring case, spacing and a final full stop
    token_f1     F1 of the words, without case, punctuation and articles (SQuAD: Rajpurkar et al., 2016)
    rouge_l      F1 of the longest common subsequence of words (ROUGE-L: Lin, 2004)
    chrf         F2, so recall counts more, of character n-grams for n = 1 to 6 (chrF: Popović, 2015)

Every number lies between 0 and 1.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence

from torchmetrics.functional.text import rouge_score, squad

METRICS = ("exact_match", "token_f1", "rouge_l", "chrf")
Scores = dict[str, float]  # by the names above


def score(answer: str, expected: str) -> Scores:
    """All metrics of one answer. Where one of the texts is empty, they say whether both are."""
    exact = float(exact_match(answer, expected))
    if not answer.strip() or not expected.strip():
        return dict.fromkeys(METRICS, exact)
    f1, rouge_l = _token_f1(answer, expected, exact), _rouge_l(answer, expected, exact)
    values = (exact, f1, rouge_l, chrf(answer, expected))
    return {name: round(value, 6) for name, value in zip(METRICS, values, strict=True)}


def exact_match(answer: str, expected: str) -> bool:
    return _plain(answer) == _plain(expected)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).removesuffix(".").rstrip()


def _token_f1(answer: str, expected: str, exact: float) -> float:
    """`exact` for two texts without words, such as "+" and "-", which SQuAD takes for two equal non-answers."""
    wordless = _squad(answer, "") == _squad(expected, "") == 1
    return exact if wordless else _squad(answer, expected)


def _squad(answer: str, expected: str) -> float:
    answers: dict[str, list[str] | list[int]] = {"text": [expected], "answer_start": [0]}
    return float(squad({"id": "0", "prediction_text": answer}, {"id": "0", "answers": answers})["f1"]) / 100


def _rouge_l(answer: str, expected: str, exact: float) -> float:
    """`exact` for two texts without words. Words are of any alphabet, where torchmetrics itself would take a to z."""
    if not _words(answer).strip() and not _words(expected).strip():
        return exact
    return float(rouge_score(answer, expected, rouge_keys="rougeL", normalizer=_words)["rougeL_fmeasure"])


def _words(text: str) -> str:
    return re.sub(r"[\W_]+", " ", text.lower())


def chrf(answer: str, expected: str, order: int = 6, beta: float = 2.0) -> float:
    """Mean over n of the F-score of the n-grams of characters, spaces left out.

    The value is torchmetrics' `chrf_score(n_word_order=0)`, but counted in integers instead of tensors, which takes
    1 ms instead of 200 for an answer of 190 words; and n goes no further than the shorter text, as in sacreBLEU, so
    that "4" for "4" is 1 and not 1/6.
    """
    answer, expected = answer.strip().replace(" ", ""), expected.strip().replace(" ", "")
    order = min(order, len(answer), len(expected))
    f_scores = [_f_score(_ngrams(answer, n), _ngrams(expected, n), beta) for n in range(1, order + 1)]
    return sum(f_scores) / max(1, order)


def _ngrams(text: str, n: int) -> Counter[str]:
    return Counter(text[i : i + n] for i in range(len(text) - n + 1))


def _f_score(found: Counter[str], expected: Counter[str], beta: float) -> float:
    matches = (found & expected).total()
    precision, recall = matches / found.total(), matches / expected.total()
    return (1 + beta**2) * precision * recall / (beta**2 * precision + recall) if matches else 0.0


def mean(scores: Sequence[Scores]) -> Scores:
    """The mean of each metric over the records."""
    return {name: round(sum(row[name] for row in scores) / len(scores), 6) for name in METRICS}


def exact_by_category(scores: Sequence[Scores], categories: Sequence[str | None]) -> Scores:
    """The share of exact matches in each category; records without one are left out."""
    rows = defaultdict(list)
    for row, category in zip(scores, categories, strict=True):
        if category is not None:
            rows[category].append(row["exact_match"])
    return {category: round(sum(values) / len(values), 6) for category, values in sorted(rows.items())}
