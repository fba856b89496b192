"""Records as token ids, made in one pass and cached for the next start."""

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
from sft.data.prompt import END, is_chat, prompt_tokens, render
from sft.data.records import SURROGATE, Record
from sft.data.sources import Source

# How many records are tokenised together.
CHUNK = 4096

# tiktoken fails on very long runs of blanks. Texts of so many characters and more go one by one
# through `encode_ordinary`, which is prepared for them.
LONG = 10_000


class Texts(NamedTuple):
    """The token ids of records, one record after the other: prompt, answer and end token of each.

    The text of record i is `tokens[starts[i] : starts[i + 1]]`. Its first `prompts[i]` tokens are
    the prompt.

    Attributes:
        tokens: (all tokens,), uint16 if the vocabulary is small enough, else uint32.
        starts: (records + 1,)
        prompts: (records,)
        questions: (records,), equal numbers for equal questions.
    """

    tokens: NDArray[Any]
    starts: NDArray[np.int64]
    prompts: NDArray[np.int32]
    questions: NDArray[np.uint64]

    def part(self, rows: range) -> "Texts":
        """Return some of the records. The array of tokens is shared, not copied."""
        return Texts(
            tokens=self.tokens,
            starts=self.starts[rows.start : rows.stop + 1],
            prompts=self.prompts[rows.start : rows.stop],
            questions=self.questions[rows.start : rows.stop],
        )


def tokenise(records: Iterable[Record], template: str, tokenizer: tiktoken.Encoding) -> Texts:
    """Encode each prompt and its answer apart, which keeps their border exact, and join them."""
    waiting = iter(records)
    chunks = [_tokenise(list(islice(waiting, CHUNK)), template, tokenizer)]
    while chunk := list(islice(waiting, CHUNK)):
        chunks.append(_tokenise(chunk, template, tokenizer))

    tokens, sizes, prompts, questions = map(np.concatenate, zip(*chunks, strict=True))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    return Texts(tokens, starts, prompts.astype(np.int32), questions)


def _tokenise(
    records: list[Record], template: str, tokenizer: tiktoken.Encoding
) -> Sequence[NDArray[Any]]:
    """Return the tokens, the sizes of the texts and of their prompts, and the questions."""
    if is_chat(template):
        tokens, ends = _encode_chats(records, template, tokenizer)
    else:
        texts: list[str] = []
        for record in records:
            texts += [render(template, record), record.output]
        tokens = _encode(texts, tokenizer)
        ends = np.flatnonzero(tokens == tokenizer.eot_token)

    # Prompts and answers alternate, and each ends with an end token. Only the answer's stays.
    sizes = np.diff(ends, prepend=-1)
    prompts = sizes[::2] - 1
    answers = sizes[1::2]
    tokens = np.delete(tokens, ends[::2])

    narrow = np.uint16 if tokenizer.n_vocab <= 1 << 16 else np.uint32
    questions = np.array([_question(record) for record in records], dtype=np.uint64)
    return tokens.astype(narrow), prompts + answers, prompts, questions


def _encode_chats(
    records: list[Record], template: str, tokenizer: tiktoken.Encoding
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the tokens as `_encode` does, and the places of the end tokens that were appended.

    A chat template may itself write end tokens, so the places cannot be found by the id.
    """
    tokens: list[int] = []
    ends: list[int] = []
    for record in records:
        prompt = prompt_tokens(template, record, tokenizer)
        for ids in (prompt, tokenizer.encode_ordinary(record.output)):
            tokens += ids
            ends.append(len(tokens))
            tokens.append(tokenizer.eot_token)
    return np.array(tokens, dtype=np.uint32), np.array(ends, dtype=np.int64)


def _encode(texts: list[str], tokenizer: tiktoken.Encoding) -> NDArray[Any]:
    """Return the tokens of texts, with an end token after each.

    One call for all texts takes half the time of a call for each. It takes a third of the time of
    tiktoken's own batches, whose threads wait for each other on texts this short.
    """
    joined = END.join([*texts, ""])
    short = max(map(len, texts), default=0) < LONG
    if short and joined.count(END) == len(texts) and not SURROGATE.search(joined):
        return tokenizer.encode_to_numpy(joined, allowed_special={END}, disallowed_special=())

    # A text that spells the end token stays text: `encode_ordinary` knows no special tokens.
    tokens: list[int] = []
    for text in texts:
        tokens += tokenizer.encode_ordinary(text)
        tokens.append(tokenizer.eot_token)
    return np.array(tokens, dtype=np.uint32)


def _question(record: Record) -> int:
    """Hash the question of a record, to find equal questions.

    Plain text has no question, so its text is hashed.
    """
    asked: tuple[str, ...] = (record.instruction, record.input)
    if asked == ("", ""):
        asked = (record.output,)
    return int.from_bytes(hashlib.blake2b(repr(asked).encode(), digest_size=8).digest())


# The cache


def load_texts(
    source: Source, shown: Sequence[int], template: str, tokenizer: tiktoken.Encoding
) -> tuple[Texts, list[Record]]:
    """Return the records of a source as tokens, and the records at the places `shown` as they are.

    The tokens of a large file come from the cache if they were made before.
    """

    def make() -> Arrays:
        found: dict[int, Record] = {}
        texts = tokenise(_watched(source, shown, found), template, tokenizer)
        content = json.dumps([asdict(found[place]) for place in shown]).encode()
        return texts._asdict() | {"shown": np.frombuffer(content, np.uint8)}

    name = _name(source, shown, template, tokenizer)
    arrays = make() if source.is_small else cached(name, make)
    records = [Record(**record) for record in json.loads(arrays["shown"].tobytes())]
    return Texts(*(arrays[field] for field in Texts._fields)), records


def _watched(source: Source, shown: Sequence[int], found: dict[int, Record]) -> Iterator[Record]:
    """Yield the records, with a progress bar, and put those at the places `shown` into `found`."""
    records = tqdm(source.stream(), "tokenising", len(source.chosen), leave=False, delay=1)
    for place, record in enumerate(records):
        if place in shown:
            found[place] = record
        yield record


def _name(source: Source, shown: Sequence[int], template: str, tokenizer: tiktoken.Encoding) -> str:
    """Return the name in the cache: a hash of everything that the tokens are made from."""
    words = (tokenizer._pat_str, tokenizer._mergeable_ranks, tokenizer._special_tokens)
    return hashlib.sha256(
        repr((source.sha256, source.chosen, shown, template, words)).encode()
    ).hexdigest()[:32]
