"""Records as token ids, made in one pass and cached for the next start."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import tiktoken
from numpy.typing import NDArray

from sft.bars import Bar
from sft.data.cache import Arrays, cached, name_of
from sft.data.prompt import END, SpecialTokens, earlier_answers, split_answers, split_prompts
from sft.data.records import SURROGATE, Record, Turn, record_of
from sft.data.selection import is_empty
from sft.data.sources import Source

# How many records are tokenised together.
CHUNK = 4096

# tiktoken fails on very long runs of blanks. Texts of at least this many characters go one by one
# through `encode_ordinary`, which is prepared for them.
LONG = 10_000


class Texts(NamedTuple):
    """The token ids of records, one record after the other.

    The text of record i is `tokens[starts[i] : starts[i] + sizes[i]]`: prompt, answer and end token
    of each turn. Its last answer begins at its token `prompts[i]`.

    Attributes:
        tokens: (all tokens,), uint16 if the vocabulary is small enough, else uint32.
        answers: (all tokens,), true for the tokens of answers and for their end tokens.
        starts, sizes, prompts: (records,)
        questions: (records,), equal numbers for equal questions.
        empty: (records,), whether the last answer says nothing.
        pieces: (pieces,), places in `tokens` within a record's text at which another example of it
            begins, as the record was too long for one.
    """

    tokens: NDArray[Any]
    answers: NDArray[np.bool_]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    prompts: NDArray[np.int32]
    questions: NDArray[np.uint64]
    empty: NDArray[np.bool_]
    pieces: NDArray[np.int64]

    def part(self, rows: NDArray[np.int64]) -> "Texts":
        """Return some of the records. The arrays of tokens are shared, not copied."""
        return Texts(
            tokens=self.tokens,
            answers=self.answers,
            starts=self.starts[rows],
            sizes=self.sizes[rows],
            prompts=self.prompts[rows],
            questions=self.questions[rows],
            empty=self.empty[rows],
            pieces=self.pieces,
        )


def tokenise(
    records: Iterable[Record],
    template: str,
    tokenizer: tiktoken.Encoding,
    split_at: int | None = None,
) -> Texts:
    """Encode each prompt and each answer apart, which keeps their borders exact, and join them.

    Args:
        split_at: a conversation of more tokens becomes several texts, each of at most this many
            where its turns allow it. None: all conversations stay whole.

    Raises:
        InputError: as in `split_answers`.
    """
    waiting = iter(records)
    chunks = [_tokenise(list(islice(waiting, CHUNK)), template, tokenizer, split_at)]
    while chunk := list(islice(waiting, CHUNK)):
        chunks.append(_tokenise(chunk, template, tokenizer, split_at))

    # Pieces are counted from the first token of all.
    done = 0
    for chunk_tokens, *_, pieces in chunks:
        pieces += done
        done += len(chunk_tokens)
    tokens, answers, sizes, *others = map(np.concatenate, zip(*chunks, strict=True))
    starts = np.cumsum(sizes) - sizes
    return Texts(tokens, answers, starts, sizes, *others)


# Tokens, which of them are an answer's, the sizes of the texts, and where their last answers begin.
Encoded = tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]


def _tokenise(
    records: list[Record], template: str, tokenizer: tiktoken.Encoding, split_at: int | None
) -> Sequence[NDArray[Any]]:
    """Return the arrays of `Texts`, without starts."""
    tokens, answers, sizes, prompts = _encode(records, template, tokenizer)
    pieces = np.array([], dtype=np.int64)

    # Encode the pieces of the long conversations, and join those of each record again.
    if split_at is not None and (sizes > split_at).any():
        parts = [
            _pieces(record, template, tokenizer, split_at) if size > split_at else [record]
            for record, size in zip(records, sizes.tolist(), strict=True)
        ]
        flat = [piece for of_record in parts for piece in of_record]
        tokens, answers, each, prompts = _encode(flat, template, tokenizer)
        ends = np.cumsum([len(of_record) for of_record in parts])
        bounds = np.concatenate([[0], np.cumsum(each)])
        sizes = np.diff(bounds[np.concatenate([[0], ends])])
        pieces = np.setdiff1d(bounds[:-1], np.cumsum(sizes) - sizes)

        # The last answer of a record is that of its last piece.
        prompts = sizes - (each - prompts)[ends - 1]

    narrow = np.uint16 if tokenizer.n_vocab <= 1 << 16 else np.uint32
    questions = np.array([_question_hash(record) for record in records], dtype=np.uint64)
    empty = np.array([is_empty(record) for record in records], dtype=np.bool_)
    prompts = prompts.astype(np.int32)
    return tokens.astype(narrow), answers, sizes, prompts, questions, empty, pieces


def _pieces(record: Record, template: str, tokenizer: tiktoken.Encoding, most: int) -> list[Record]:
    """Divide a conversation into ones of at most `most` tokens, where its turns allow it.

    Each begins with the system's turn, if there is one, and ends with an answer.
    """
    system = [turn for turn in record.before if turn.role == "system"]
    turns = [turn for turn in record.before if turn.role != "system"]
    pairs = [*zip(turns[::2], turns[1::2], strict=True)]

    pieces: list[Record] = []
    first = 0
    for last in range(len(pairs) + 1):
        piece = _piece(record, system, pairs, first, last)
        if last > first and _encode([piece], template, tokenizer)[2][0] > most:
            pieces.append(_piece(record, system, pairs, first, last - 1))
            first = last
    return [*pieces, _piece(record, system, pairs, first, len(pairs))]


def _piece(
    record: Record, system: list[Turn], pairs: list[tuple[Turn, Turn]], first: int, last: int
) -> Record:
    """Return the part of a conversation from one question to another and its answer."""
    before = (*system, *(turn for pair in pairs[first:last] for turn in pair))
    if last == len(pairs):
        return replace(record, before=before)
    question, answer = pairs[last]
    return Record(question.content, "", answer.content, record.category, before)


def _encode(records: list[Record], template: str, tokenizer: tiktoken.Encoding) -> Encoded:
    together = _encode_together(records, template, tokenizer)
    return _encode_apart(records, template, tokenizer) if together is None else together


def _encode_together(
    records: list[Record], template: str, tokenizer: tiktoken.Encoding
) -> Encoded | None:
    """Encode all texts in one call; None if a text spells a special token, or is very long.

    One call for all texts takes half the time of a call for each. It takes a third of the time of
    tiktoken's own batches, whose threads wait for each other on texts this short.
    """
    # Prompts and answers alternate.
    texts: list[str] = []
    ends: list[int] = []
    for record in records:
        first, *later = split_answers(template, record)
        texts.append(first)
        for answer, text in zip(earlier_answers(record), later, strict=True):
            if not text.startswith(END):
                return None
            texts += [answer, text.removeprefix(END)]
        texts.append(record.output)
        ends.append(len(texts))

    joined = END.join([*texts, ""])
    special = SpecialTokens(tokenizer)
    if max(map(len, texts), default=0) >= LONG or SURROGATE.search(joined):
        return None
    if special.count(joined) > len(texts):
        return None
    tokens = tokenizer.encode_to_numpy(joined, allowed_special={END}, disallowed_special=())

    # Each text ends with an end token. Only those of the answers stay.
    places = np.flatnonzero(tokens == tokenizer.eot_token)
    sizes = np.diff(places, prepend=-1)
    sizes[::2] -= 1
    answers = np.repeat(np.arange(len(sizes)) % 2 == 1, sizes)
    tokens = np.delete(tokens, places[::2])

    # Gather the sizes of each record's texts.
    bounds = np.concatenate([[0], np.cumsum(sizes)])[[0, *ends]]
    totals = np.diff(bounds)
    last = sizes[np.array(ends, dtype=np.int64) - 1]
    return tokens, answers, totals, totals - last


def _encode_apart(records: list[Record], template: str, tokenizer: tiktoken.Encoding) -> Encoded:
    """Encode text by text.

    A text that spells a special token stays text. The chat template of another program may write
    such tokens. What it writes after an earlier answer is part of the next prompt, unless it is the
    end token.
    """
    special = SpecialTokens(tokenizer)
    end = [tokenizer.eot_token]
    tokens: list[int] = []
    answers: list[bool] = []
    sizes: list[int] = []
    prompts: list[int] = []
    for record in records:
        start = len(tokens)
        wanted = [*earlier_answers(record), record.output]
        parts = split_prompts(template, record, special)
        for number, (prompt, answer) in enumerate(zip(parts, wanted, strict=True)):
            ended = number > 0 and prompt[:1] == end
            learned = tokenizer.encode_ordinary(answer)
            tokens += prompt
            answers += [place == 0 and ended for place in range(len(prompt))]
            prompts_end = len(tokens)
            tokens += learned
            answers += [True] * len(learned)
        tokens += end
        answers.append(True)
        sizes.append(len(tokens) - start)
        prompts.append(prompts_end - start)
    return (
        np.array(tokens, dtype=np.uint32),
        np.array(answers, dtype=np.bool_),
        np.array(sizes, dtype=np.int64),
        np.array(prompts, dtype=np.int64),
    )


def _question_hash(record: Record) -> int:
    """Hash the question of a record and the turns before it, to find equal questions.

    Plain text has no question, so its text is hashed.
    """
    asked: tuple[Any, ...] = (record.instruction, record.input)
    if record.before:
        asked = (*asked, tuple(map(tuple, record.before)))
    elif asked == ("", ""):
        asked = (record.output,)
    return int.from_bytes(hashlib.blake2b(repr(asked).encode(), digest_size=8).digest())


# The cache


def load_texts(
    source: Source,
    shown: Sequence[int],
    template: str,
    tokenizer: tiktoken.Encoding,
    split_at: int | None = None,
) -> tuple[Texts, list[Record]]:
    """Return the records of a source as tokens, and the records at the places `shown` as they are.

    The tokens of a large file come from the cache if they were made before.

    Args:
        split_at: as in `tokenise`.
    """

    def make() -> Arrays:
        found: dict[int, Record] = {}
        texts = tokenise(_watched(source, shown, found), template, tokenizer, split_at)
        content = json.dumps([found[place].plain() for place in shown]).encode()
        return texts._asdict() | {"shown": np.frombuffer(content, np.uint8)}

    name = _name(source, shown, template, tokenizer)
    if split_at is not None and source.conversations:
        name = name_of(name, split_at)
    arrays = make() if source.is_small else cached(name, make)
    records = [record_of(fields) for fields in json.loads(arrays["shown"].tobytes())]
    return Texts(*(arrays[field] for field in Texts._fields)), records


def _watched(source: Source, shown: Sequence[int], found: dict[int, Record]) -> Iterator[Record]:
    """Yield the records, with a progress bar, and put those at the places `shown` into `found`."""
    records = Bar(source.stream(), "tokenising", len(source.chosen), leave=False, delay=1)
    for place, record in enumerate(records):
        if place in shown:
            found[place] = record
        yield record


def _name(source: Source, shown: Sequence[int], template: str, tokenizer: tiktoken.Encoding) -> str:
    """Return the name in the cache: a hash of everything that the tokens are made from."""
    words = (tokenizer._pat_str, tokenizer._mergeable_ranks, tokenizer._special_tokens)
    return name_of(*source.identity, shown, template, words)
