"""Questions that are nearly equal: the one measure of it, and a search that misses none.

Two questions are compared by the sets of their character trigrams. Their similarity is the Jaccard
index, the number of common trigrams over the number of all. Case and punctuation do not count.

The search is exact and needs no random hashes. If all sets are sorted in one order, the first
elements of two neighbours must overlap ("prefix filter": Chaudhuri et al., 2006; Bayardo et al.,
2007; Xiao et al., 2008). With rare trigrams first, few other pairs share one. A sparse product
counts what the prefixes share, and the exact index decides on the pairs that may reach it.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from sft.bars import Bar
from sft.data.records import Record

# A neighbour's similarity, and that of one that is almost the same.
NEAR = 0.7
CLOSE = 0.9

WORD = re.compile(r"[\w']+")

# How many products are in memory at once, whatever the number of questions.
PRODUCTS = 4_000_000

# How many texts are taken apart together.
CHUNK = 4096

# A Unicode character has 21 bits, so three fit in one number.
BITS = np.uint64(21)

Numbers = NDArray[np.int64]

# A scipy.sparse.csr_matrix; scipy comes without types.
Matrix = Any


def compared_text(record: Record) -> str:
    """Return the text by which a record is compared: instruction and input, each on a line.

    Earlier questions and answers stand before them. The system's turn is left out: it is often long
    and the same in all records, which would make all questions nearly equal. Plain text has no
    question, so its text is compared.
    """
    if record.instruction or record.input or record.before:
        earlier = [turn.content for turn in record.before if turn.role != "system"]
        return "\n".join([*earlier, record.instruction, record.input])
    return record.output


def nearest(
    questions: Sequence[str], others: Sequence[str], least: float = NEAR
) -> tuple[Numbers, NDArray[np.float64]]:
    """Find for each question the most similar one of the others.

    Args:
        least: the smallest similarity that counts, above 0.

    Returns:
        The places among the others, and the similarities. Both are (questions,). A question
        without a neighbour has the place -1 and the similarity 0. Of equally similar ones the
        first counts.
    """
    places = np.full(len(questions), -1)
    similarities = np.zeros(len(questions))
    for first, second, similarity in _between(questions, others, least):
        found = zip(first.tolist(), second.tolist(), similarity.tolist(), strict=True)
        for row, place, value in found:
            equal = value == similarities[row] and place < places[row]
            if value > similarities[row] or equal:
                places[row] = place
                similarities[row] = value
    return places, similarities


def groups(questions: Sequence[str], least: float = NEAR) -> Numbers:
    """Return the group of each question, (questions,): neighbours are in one group.

    So are neighbours of neighbours. Groups are numbered from 0, in the order of their first
    question.
    """
    texts, of_text = _distinct(questions)
    labels = np.arange(len(texts))
    for pairs in _within(texts, least):
        # Only the labels are kept, so many pairs need no more memory than few.
        joined = (np.ones(len(pairs.first)), (labels[pairs.first], labels[pairs.second]))
        graph = sparse.coo_matrix(joined, shape=(len(texts), len(texts)))
        labels = connected_components(graph, directed=False)[1][labels]

    found = labels[of_text]
    _, first, numbers = np.unique(found, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[numbers]


def spare(questions: Sequence[str], least: float = NEAR) -> NDArray[np.bool_]:
    """Mark the questions to leave out so that no two of the others are neighbours, (questions,).

    Of equal questions the first stays, of neighbours the one with the most trigrams.
    """
    texts, of_text = _distinct(questions)
    dropped = np.zeros(len(texts), dtype=bool)
    for pairs in _within(texts, least):
        # Pairs come in the order of their first one, whose fate is then known.
        for first, second in zip(pairs.first.tolist(), pairs.second.tolist(), strict=True):
            if not dropped[first]:
                dropped[second] = True

    repeated = np.ones(len(questions), dtype=bool)
    repeated[np.unique(of_text, return_index=True)[1]] = False
    return repeated | dropped[of_text]


class Pairs(NamedTuple):
    """Neighbours: the places of both questions, and their similarity. Each is (pairs,)."""

    first: Numbers
    second: Numbers
    similarity: NDArray[np.float64]


def _plain(question: str) -> str:
    return " ".join(WORD.findall(question.lower()))


def _distinct(questions: Sequence[str]) -> tuple[list[str], Numbers]:
    """Return the plain texts, each once, and for each question the place of its text."""
    places: dict[str, int] = {}
    of_text = [places.setdefault(_plain(question), len(places)) for question in questions]
    return list(places), np.array(of_text, dtype=np.int64)


def _between(questions: Sequence[str], others: Sequence[str], least: float) -> Iterator[Pairs]:
    """Yield the pairs of a question and one of the others."""
    sets = _trigrams([_plain(text) for text in (*questions, *others)])
    asked = len(questions)
    left = np.arange(asked)
    right = np.arange(asked, sets.shape[0])

    # Each pair is found once: its larger set is on the one side or on the other.
    for first, second, similarity in _search(sets, left, right, least):
        yield Pairs(first, second - asked, similarity)
    for first, second, similarity in _search(sets, right, left, least):
        yield Pairs(second, first - asked, similarity)


def _within(texts: Sequence[str], least: float) -> Iterator[Pairs]:
    """Yield the pairs among texts that all differ, in the order of the first ones.

    The first of a pair has the larger set, and the largest sets come first.
    """
    everything = np.arange(len(texts))
    yield from _search(_trigrams(texts), everything, everything, least)


def _trigrams(texts: Sequence[str]) -> Matrix:
    """Return the sets of trigrams, (texts, trigrams): 1 where a text has a trigram.

    The columns are in the order of rarity, the rarest first. A text of one or two characters counts
    as one trigram; an empty one has none.
    """
    parts = [_codes(texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)]
    codes = np.concatenate([np.empty(0, np.uint64), *(codes for codes, _ in parts)])
    sizes = np.concatenate([np.empty(0, np.int64), *(sizes for _, sizes in parts)])

    found, frequencies = np.unique(codes, return_counts=True)
    ranks = np.argsort(np.argsort(frequencies, kind="stable")).astype(np.int32)
    columns = ranks[np.searchsorted(found, codes)]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    shape = (len(texts), len(found))
    sets = sparse.csr_matrix((np.ones(len(columns), np.int32), columns, starts), shape=shape)
    sets.sort_indices()
    return sets


def _codes(texts: Sequence[str]) -> tuple[NDArray[np.uint64], Numbers]:
    """Return the trigrams of each text as numbers, and how many different ones each text has."""
    # Two zeros after each text complete the trigrams that begin in its last two characters.
    characters = np.frombuffer("\0\0".join([*texts, ""]).encode("utf-32-le"), dtype=np.uint32)
    lengths = np.array([len(text) for text in texts])
    rows = np.repeat(np.arange(len(texts)), lengths + 2)
    places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths + 2) - lengths - 2, lengths + 2)

    # Those are not counted, but for the single one of a short text.
    counted = np.flatnonzero(places < np.maximum(lengths - 2, np.minimum(lengths, 1))[rows])
    one, two, three = (characters[counted + step].astype(np.uint64) for step in range(3))
    codes = (one << BITS | two) << BITS | three

    # Sort the trigrams of each text, and take each of them once.
    rows = rows[counted]
    order = np.lexsort((codes, rows))
    codes = codes[order]
    rows = rows[order]
    new = np.ones(len(codes), dtype=bool)
    new[1:] = (codes[1:] != codes[:-1]) | (rows[1:] != rows[:-1])
    return codes[new], np.bincount(rows[new], minlength=len(texts))


def _search(sets: Matrix, larger: Numbers, smaller: Numbers, least: float) -> Iterator[Pairs]:
    """Yield the similar pairs of a row of `larger` and one of `smaller` that has a smaller set.

    Of two sets of one size, that of the earlier row counts as the larger one.
    """
    sizes = np.diff(sets.indptr).astype(np.int64)
    ranks = np.argsort(np.argsort(-sizes, kind="stable"))
    larger, smaller = (
        rows[np.argsort(ranks[rows])] for rows in (larger[sizes[larger] > 0], smaller)
    )

    # A set shares at least `least` of itself with a neighbour, and more with a larger one.
    long = _first(sets, _prefixes(sizes, least))
    short = _first(sets, _prefixes(sizes, 2 * least / (1 + least)))
    products = long @ np.bincount(short[smaller].indices, minlength=sets.shape[1])

    bar = Bar(total=len(larger), desc="comparing questions", leave=False, delay=1)
    with bar:
        for part in _parts(products[larger]):
            rows = larger[part]

            # Only sets of a fitting size can be neighbours, and these stand together.
            smallest = sizes[rows[-1]] * least - 1e-9
            low = np.searchsorted(ranks[smaller], ranks[rows[0]])
            high = np.searchsorted(-sizes[smaller], -smallest, "right")
            columns = smaller[low:high]

            shared = (long[rows] @ short[columns].T).tocoo()
            first = rows[shared.row]
            second = columns[shared.col]
            fits = ranks[first] < ranks[second]
            yield _similar(sets, long, short, first[fits], second[fits], shared.data[fits], least)
            bar.update(len(rows))


def _prefixes(sizes: Numbers, share: float) -> Numbers:
    """Return how many elements of each set are compared first.

    A set of n elements shares at least `share` * n of them with each neighbour. So any
    n - `share` * n + 1 of its elements hold a shared one. A few more elements cost little, and
    leave half the candidates. Rounding may add one, but never takes one away.
    """
    needed = np.ceil(share * sizes - 1e-9).astype(np.int64)
    lengths: Numbers = np.minimum(sizes, sizes - needed + 1 + sizes // 16)
    return lengths


def _first(sets: Matrix, lengths: Numbers) -> Matrix:
    """Return the first `lengths` elements of each row."""
    sizes = np.diff(sets.indptr)
    places = np.arange(sets.nnz) - np.repeat(sets.indptr[:-1], sizes)
    kept = places < np.repeat(lengths, sizes)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    return sparse.csr_matrix((sets.data[kept], sets.indices[kept], starts), shape=sets.shape)


def _parts(costs: Numbers) -> Iterator[slice]:
    """Divide rows so that each part costs at most `PRODUCTS`, or is a single row."""
    totals = np.cumsum(costs)
    start = 0
    while start < len(totals):
        before = totals[start] - costs[start]
        stop = max(start + 1, int(np.searchsorted(totals, before + PRODUCTS, "right")))
        yield slice(start, stop)
        start = stop


def _similar(
    sets: Matrix,
    long: Matrix,
    short: Matrix,
    first: Numbers,
    second: Numbers,
    shared: Numbers,
    least: float,
) -> Pairs:
    """Return the pairs that are similar.

    Args:
        long, short: the prefixes of the first sets, and those of the second sets.
        first, second: (pairs,), the candidates.
        shared: (pairs,), how many elements the prefixes of each share.
    """
    sizes = np.diff(sets.indptr).astype(np.int64)
    needed = least / (1 + least) * (sizes[first] + sizes[second]) - 1e-9

    # All that two sets share up to the end of the prefix that ends first is counted already. What
    # they share after it is at most the rest of that set.
    ends = [part.indices[part.indptr[1:] - 1] for part in (long, short)]
    rests = [sizes - np.diff(part.indptr) for part in (long, short)]
    long_ends_first = ends[0][first] <= ends[1][second]
    rest = np.where(long_ends_first, rests[0][first], rests[1][second])
    possible = shared + rest >= needed
    first = first[possible]
    second = second[possible]
    needed = needed[possible]

    # The exact number, for a part of the pairs at a time.
    common = np.zeros(len(first), dtype=np.int64)
    for part in _parts(sizes[first] + sizes[second]):
        common[part] = sets[first[part]].multiply(sets[second[part]]).sum(axis=1).A1

    near = common >= needed
    first = first[near]
    second = second[near]
    common = common[near]
    return Pairs(first, second, common / (sizes[first] + sizes[second] - common))
