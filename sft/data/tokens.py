"""Records as token ids, made in one pass and kept in the cache for the next start."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tqdm import tqdm

from sft.data.cache import Arrays, cached
from sft.data.prompt import is_chat, prompt_tokens, render
from sft.data.records import SURROGATE, Record
from sft.data.sources import Source, is_small

CHUNK = 4096  # records tokenised together
END = "<|endoftext|>"
LONG = 10_000  # characters; only `encode_ordinary` is prepared for the runs of blanks that a longer text may hold


class Texts(NamedTuple):
    """The token ids of records, one record after the other: prompt, response and end token of each.

    Record i's text is `tokens[starts[i]:starts[i + 1]]`, of which the first `prompts[i]` tokens are the prompt.
    """

    tokens: NDArray[Any]  # (all tokens,), uint16 if the vocabulary allows, else uint32
    starts: NDArray[np.int64]  # (records + 1,)
    prompts: NDArray[np.int32]  # (records,)
    questions: NDArray[np.uint64]  # (records,), the same number for the same question

    def part(self, rows: range) -> "Texts":
        """Some of the records; the tokens of all stay where they are."""
        few = slice(rows.start, rows.stop)
        return Texts(
            self.tokens,
            self.starts[rows.start : rows.stop + 1],
            self.prompts[few],
            self.questions[few],
        )


def tokenise(records: Iterable[Record], template: str, tokenizer: tiktoken.Encoding) -> Texts:
    """Prompt and response are encoded apart, so that the border between them is exact, and joined."""
    chunks = [_tokenise(chunk, template, tokenizer) for chunk in _chunks(records)] or [
        _tokenise([], "", tokenizer)
    ]
    tokens, sizes, prompts, questions = map(np.concatenate, zip(*chunks, strict=True))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return Texts(tokens, starts, prompts.astype(np.int32), questions)


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    waiting = iter(records)
    while chunk := list(islice(waiting, CHUNK)):
        yield chunk


def _tokenise(
    records: list[Record], template: str, tokenizer: tiktoken.Encoding
) -> Sequence[NDArray[Any]]:
    """Tokens, the sizes of texts and of prompts, and questions."""
    if is_chat(template):
        tokens, ends = _encode_chats(records, template, tokenizer)
    else:
        texts = [text for record in records for text in (render(template, record), record.output)]
        tokens = _encode(texts, tokenizer)
        ends = np.flatnonzero(tokens == tokenizer.eot_token)
    sizes = np.diff(ends, prepend=-1)
    prompts, responses = sizes[::2] - 1, sizes[1::2]
    tokens = np.delete(tokens, ends[::2])  # no end token between prompt and response
    narrow = np.uint16 if tokenizer.n_vocab <= 1 << 16 else np.uint32
    questions = np.array([_question(record) for record in records], dtype=np.uint64)
    return tokens.astype(narrow), prompts + responses, prompts, questions


def _encode_chats(
    records: list[Record], template: str, tokenizer: tiktoken.Encoding
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the tokens as `_encode`, and where the end tokens stand that it appends: a chat template writes others."""
    parts: list[list[int]] = []
    for record in records:
        for ids in (
            prompt_tokens(template, record, tokenizer),
            tokenizer.encode_ordinary(record.output),
        ):
            parts.append([*ids, tokenizer.eot_token])
    tokens = np.array([token for part in parts for token in part], dtype=np.uint32)
    return tokens, np.cumsum([len(part) for part in parts], dtype=np.int64) - 1


def _encode(texts: list[str], tokenizer: tiktoken.Encoding) -> NDArray[Any]:
    """The tokens of texts, each with the end token behind it.

    One call for many texts takes about half the time of a call for each (and a third of that of tiktoken's batches,
    whose threads wait for each other on texts this short).
    """
    joined = END.join([*texts, ""])
    short = max(map(len, texts), default=0) < LONG
    if short and joined.count(END) == len(texts) and not SURROGATE.search(joined):
        return tokenizer.encode_to_numpy(joined, allowed_special={END}, disallowed_special=())
    end = [tokenizer.eot_token]  # a text that spells the end token must not become it
    return np.array(
        [token for text in texts for token in tokenizer.encode_ordinary(text) + end],
        dtype=np.uint32,
    )


def _question(record: Record) -> int:
    """A hash of what makes a record the same question as another; plain text asks nothing, so it is itself."""
    asked = (
        (record.instruction, record.input)
        if record.instruction or record.input
        else (record.output,)
    )
    return int.from_bytes(hashlib.blake2b(repr(asked).encode(), digest_size=8).digest())


# Kept for the next start


def load_texts(
    source: Source, shown: Sequence[int], template: str, tokenizer: tiktoken.Encoding
) -> tuple[Texts, list[Record]]:
    """The records of a source as tokens, and as they are those at the places `shown`."""

    def make() -> Arrays:
        seen: dict[int, Record] = {}
        texts = tokenise(_watched(source, shown, seen), template, tokenizer)
        kept = json.dumps([asdict(seen[place]) for place in shown]).encode()
        return texts._asdict() | {"shown": np.frombuffer(kept, np.uint8)}

    arrays = (
        make() if is_small(source.path) else cached(_name(source, shown, template, tokenizer), make)
    )
    records = [Record(**record) for record in json.loads(arrays["shown"].tobytes())]
    return Texts(*(arrays[field] for field in Texts._fields)), records


def _watched(source: Source, shown: Sequence[int], seen: dict[int, Record]) -> Iterator[Record]:
    """The records on their way, with a progress bar if it is long; those shown stay behind in `seen`."""
    records = tqdm(source.stream(), "tokenising", len(source.chosen), leave=False, delay=1)
    for place, record in enumerate(records):
        if place in shown:
            seen[place] = record
        yield record


def _name(source: Source, shown: Sequence[int], template: str, tokenizer: tiktoken.Encoding) -> str:
    """All that the tokens are made from, as a hash."""
    words = (tokenizer._pat_str, tokenizer._mergeable_ranks, tokenizer._special_tokens)
    return hashlib.sha256(
        repr((source.sha256, source.chosen, shown, template, words)).encode()
    ).hexdigest()[:32]
