"""The checks of a data set: each record, duplicates, and lengths in tokens.

`CHECKS` lists what a record can be marked for. Nothing is changed here; `kept` says which records
stay if some checks are asked to drop what they mark.
"""

import importlib.util
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tiktoken
from numpy.typing import NDArray

from sft.bars import Bar
from sft.data.loops import repeats_itself
from sft.data.neighbours import CLOSE, NEAR, compared_text, nearest, spare
from sft.data.records import Record
from sft.data.selection import is_empty
from sft.data.sources import Indices
from sft.data.tokens import tokenise
from sft.errors import InputError

# What templates write between the turns. In a field, a model takes it for the end of that field.
MARKERS = re.compile(
    r"^### (Instruction|Input|Response):|\[/?INST\]|<</?SYS>>"
    r"|<\|(user|assistant|system|end|im_start|im_end|endoftext)\|>",
    re.MULTILINE,
)

# More records are not compared with each other: that would take hours.
MOST_COMPARED = 200_000

# The similarities at which a split's questions are counted as those of train.
LEVELS = (CLOSE, 0.8, NEAR)

PERCENTILES = (5, 25, 50, 75, 95, 99, 100)


@dataclass(frozen=True)
class Check:
    """Something that a record can be marked for.

    Attributes:
        label: for people.
        applies: whether a record is to be marked; None: it is found by comparing records.
    """

    label: str
    applies: Callable[[Record], bool] | None = None


def share(part: int, whole: int, digits: int = 1) -> str:
    """Return a share in percent. A part that would be rounded to 0.0% is shown as <0.1%."""
    zero = f"{0:.{digits}%}"
    text = f"{part / whole:.{digits}%}"
    return f"<{10**-digits:.{digits}f}%" if part and text == zero else text


def fields(record: Record) -> list[str]:
    """Return the texts of a record."""
    earlier = [turn.content for turn in record.before]
    return [*earlier, record.instruction, record.input, record.output]


def says_nothing(record: Record) -> bool:
    """Return whether the answer says nothing, or there is an input without a question."""
    no_question = not record.instruction.strip() and bool(record.input.strip())
    return is_empty(record) or no_question


def is_mojibake(record: Record) -> bool:
    """Return whether a text looks as if it was decoded with the wrong encoding, as in "cafÃ©"."""
    from ftfy.badness import is_bad

    return any(is_bad(text) for text in fields(record))


def has_markers(record: Record) -> bool:
    """Return whether a text holds what a prompt template writes between the turns."""
    return any(MARKERS.search(text) for text in fields(record))


# To add a check of single records, add it here.
CHECKS: dict[str, Check] = {
    "duplicates": Check("the question of an earlier record, word for word"),
    "close": Check(f"a question close to another ({CLOSE} of the trigrams in common)"),
    "near": Check(f"a question near another ({NEAR} of the trigrams in common)"),
    "empty": Check("no answer, N/A, or no question", says_nothing),
    "mojibake": Check("text decoded with the wrong encoding", is_mojibake),
    "markers": Check("a prompt template's own markers inside a field", has_markers),
    "loops": Check("an answer that repeats itself", lambda record: repeats_itself(record.output)),
    "too-long": Check("longer than the model's context, so that the end is cut"),
}


@dataclass(frozen=True)
class Shared:
    """The overlap of a split's questions with those of the training split.

    Attributes:
        exact: how many records have a question that train has word for word.
        similar: for each of LEVELS how many have a question in train of that similarity or more.
        pairs: the most similar: the record, the one in train, from 0, and their similarity.
    """

    records: int
    exact: int
    similar: dict[float, int]
    pairs: list[tuple[int, int, float]]


@dataclass(frozen=True)
class Examination:
    """The findings of the checks.

    Attributes:
        records: all of them, in the order of the files.
        prompts, answers: (records,), lengths in tokens; an answer's with its end token.
        context: the most tokens that the model reads of a record.
        marked: for each check the places of the records that it marks.
        skipped: the checks that were not made, and why.
        shared: for each split but train what it has in common with train.
        scripts: for each script its letters, and the records that have some; the commonest first.
    """

    records: list[Record]
    prompts: NDArray[np.int64]
    answers: NDArray[np.int64]
    context: int
    marked: dict[str, NDArray[np.int64]]
    skipped: dict[str, str]
    shared: dict[str, Shared]
    scripts: dict[str, tuple[int, int]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The lengths of the whole texts in tokens, (records,)."""
        return self.prompts + self.answers

    def percentiles(self) -> dict[str, list[int]]:
        """Return the percentiles of `PERCENTILES` of each length, in tokens."""
        measured = {"prompt": self.prompts, "answer": self.answers, "together": self.lengths}
        return {
            name: np.percentile(values, PERCENTILES, method="higher").astype(int).tolist()
            for name, values in measured.items()
        }

    def by_length(self) -> NDArray[np.int64]:
        """Return the places of the records, the shortest first."""
        return np.argsort(self.lengths, kind="stable")

    def kept(self, checks: Collection[str]) -> list[int]:
        """Return the places of the records that none of the named checks marks.

        Raises:
            InputError: a check is unknown, or was not made.
        """
        dropped: set[int] = set()
        for name in checks:
            if name not in CHECKS:
                raise InputError(f"--drop: unknown check {name!r}; known: {', '.join(CHECKS)}")
            if name in self.skipped:
                raise InputError(f"--drop: {name} was not checked ({self.skipped[name]})")
            dropped.update(self.marked[name].tolist())
        return [place for place in range(len(self.records)) if place not in dropped]


def examine(
    records: list[Record],
    splits: Mapping[str, Indices],
    template: str,
    tokenizer: tiktoken.Encoding,
    context: int,
) -> Examination:
    """Examine records. Long work shows a progress bar.

    Args:
        splits: the places of each split's records.
        template: with which the lengths are counted, in Jinja.
        context: the most tokens that the model reads of a record.
    """
    marked: dict[str, NDArray[np.int64]] = {}
    skipped: dict[str, str] = {}

    # Lengths, as training counts them: the last token of a text is only a label.
    texts = tokenise(Bar(records, "tokenising", leave=False, delay=1), template, tokenizer)
    prompts = texts.prompts.astype(np.int64)
    answers = texts.sizes - prompts
    marked["too-long"] = np.flatnonzero(prompts + answers > context + 1)

    # Records by themselves.
    if importlib.util.find_spec("ftfy") is None:
        skipped["mojibake"] = "it needs ftfy: pip install '.[doctor]'"
    single = {
        name: check.applies
        for name, check in CHECKS.items()
        if check.applies and name not in skipped
    }
    places: dict[str, list[int]] = {name: [] for name in single}
    for place, record in enumerate(Bar(records, "checking", leave=False, delay=1)):
        for name, applies in single.items():
            if applies(record):
                places[name].append(place)
    marked |= {name: np.array(found, dtype=np.int64) for name, found in places.items()}

    # Records compared with each other.
    questions = [compared_text(record) for record in records]
    _, first = np.unique(list(map(_with_system, records, questions)), return_index=True)
    marked["duplicates"] = np.setdiff1d(np.arange(len(questions)), first)
    shared: dict[str, Shared] = {}
    if len(records) > MOST_COMPARED:
        reason = f"more than {MOST_COMPARED:,} records would take hours to compare"
        skipped |= {"close": reason, "near": reason}
    else:
        marked["close"] = np.flatnonzero(spare(questions, CLOSE))
        marked["near"] = np.flatnonzero(spare(questions, NEAR))
        train = splits["train"]
        for name, rows in splits.items():
            if name != "train" and len(rows):
                shared[name] = _shared(questions, rows, train)
    return Examination(
        records, prompts, answers, context, marked, skipped, shared, _scripts(records)
    )


def _with_system(record: Record, question: str) -> str:
    """Return the question with its system turn. Another system turn makes it another question."""
    system = [turn.content for turn in record.before if turn.role == "system"]
    return "\n".join([*system, question])


def _shared(questions: Sequence[str], rows: Indices, train: Indices) -> Shared:
    asked = [questions[row] for row in rows]
    known = [questions[row] for row in train]
    places, similarities = nearest(asked, known)
    first = {text: place for place, text in reversed(list(enumerate(known)))}
    exact = np.array([text in first for text in asked])

    # A question without words is near nothing, but may still be there word for word.
    places = np.array([first.get(text, place) for text, place in zip(asked, places, strict=True)])
    similarities[exact] = 1.0
    closest = np.argsort(-similarities, kind="stable")[:10].tolist()
    return Shared(
        records=len(asked),
        exact=int(exact.sum()),
        similar={level: int((similarities >= level).sum()) for level in LEVELS},
        pairs=[
            (int(rows[row]), int(train[places[row]]), float(similarities[row]))
            for row in closest
            if similarities[row] > 0
        ],
    )


def _scripts(records: Sequence[Record]) -> dict[str, tuple[int, int]]:
    """Count the letters of each script, and the records that have some; the commonest first.

    The first word of a letter's Unicode name tells its script, as in LATIN SMALL LETTER A.
    """
    letters: Counter[str] = Counter()
    holding: Counter[str] = Counter()
    names: dict[str, str] = {}
    for record in records:
        counts = Counter("".join(fields(record)))
        found: set[str] = set()
        for character, count in counts.items():
            if not character.isalpha():
                continue
            if character not in names:
                name = unicodedata.name(character, "unknown").split()[0]
                names[character] = name if name == "CJK" else name.capitalize()
            letters[names[character]] += count
            found.add(names[character])
        holding.update(found)
    return {name: (count, holding[name]) for name, count in letters.most_common()}
