"""GPT-2's tokenizer: byte-level byte-pair encoding, read from and written to `vocab.json` and `merges.txt`.

`tokenizer.json` is written beside them for transformers' tokenizers of today, and never read here.

Text is cut into words by a pattern, and a word's bytes are joined, pair by pair, in the order in which training found
the pairs (Sennrich et al., 2016; on bytes: Radford et al., 2019, 2.2). The two files spell bytes as printable letters.
tiktoken needs no list of pairs: it joins the neighbours whose union has the lowest id, which is the same as long as
ids rise with the lines of `merges.txt`; that is checked here.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import tiktoken
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from sft.config import InputError

END = "<|endoftext|>"

# GPT-2's pattern (openai/gpt-2, src/encoder.py) is 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|
# \s+(?!\S)|\s+ ; this is tiktoken's equal of it (tiktoken_ext/openai_public.py), which does not slow down on long
# runs of spaces.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""


def _spell_bytes() -> dict[int, str]:
    """The letter that stands for each byte in GPT-2's files: itself if printable, else one from U+0100 on."""
    printable = [byte for byte in range(256) if chr(byte).isprintable() and byte != ord(" ")]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


LETTER = _spell_bytes()
BYTE = {letter: byte for byte, letter in LETTER.items()}


def load_tokenizer(folder: Path) -> tiktoken.Encoding:
    """The tokenizer in a checkpoint's folder. Its end token is `.eot_token`, its size `.n_vocab`.

    Text is encoded with `encode_ordinary`, which reads `<|endoftext|>` as text; a lone surrogate becomes U+FFFD.

    Raises:
        InputError: a file is missing or cannot be read as what it should be, or the two do not fit each other.
    """
    vocab = _read_vocab(folder / "vocab.json")
    merged = _read_merges(folder / "merges.txt", vocab)
    special = {token: id for token, id in vocab.items() if token not in BYTE and token not in merged}
    for token in special:
        if not (token.startswith("<|") and token.endswith("|>")):
            raise InputError(f"{folder / 'merges.txt'}: no line makes the token {token!r} of vocab.json")
    ranks = {_bytes(token): id for token, id in vocab.items() if token not in special}
    return tiktoken.Encoding(folder.name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)


def save_tokenizer(tokenizer: tiktoken.Encoding, folder: Path) -> None:
    """Write `vocab.json` and `merges.txt`, which for GPT-2's own tokenizer are the released files, byte for byte; and
    `tokenizer.json`, which says the same."""
    vocab, merges = spelled(tokenizer)
    lines = [f"{first} {second}\n" for first, second in merges]
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(lines), encoding="utf-8", newline="\n")
    whole = Tokenizer(models.BPE(vocab, merges))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    whole.post_processor = processors.ByteLevel(trim_offsets=False)
    whole.add_special_tokens([AddedToken(token, normalized=False) for token in tokenizer.special_tokens_set])
    whole.save(str(folder / "tokenizer.json"))


def spelled(tokenizer: tiktoken.Encoding) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The tokens by id and the merges in their order, in the letters of GPT-2's files."""
    ranks, special = tokenizer._mergeable_ranks, tokenizer._special_tokens
    vocab = {_spell(token): id for token, id in ranks.items()} | special
    pairs = (_last_pair(token, ranks) for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1)
    merges = [(_spell(first), _spell(second)) for first, second in pairs]
    return dict(sorted(vocab.items(), key=lambda item: item[1])), merges


def _bytes(token: str) -> bytes:
    return bytes(BYTE[letter] for letter in token)


def _spell(token: bytes) -> str:
    return "".join(LETTER[byte] for byte in token)


def _last_pair(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two tokens that were joined into this one: what its bytes give with the merges that came before it."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        unions = [ranks.get(first + second, len(ranks) + 1) for first, second in pairwise(parts)]
        at = unions.index(min(unions))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    first, second = parts
    return first, second


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; a checkpoint's tokenizer is its vocab.json and merges.txt") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error


def decode(tokenizer: tiktoken.Encoding, tokens: Sequence[int]) -> str:
    """The text of tokens. A model may have more ids than its tokenizer, to round its size up; they have no text."""
    return tokenizer.decode([token for token in tokens if token < tokenizer.n_vocab])


def _read_vocab(path: Path) -> dict[str, int]:
    try:
        vocab = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(vocab, dict):
        raise InputError(f"{path}: expected an object of tokens and ids, found {type(vocab).__name__}")
    owner: dict[int, str] = {}
    for token, id in vocab.items():
        if type(id) is not int or not 0 <= id < len(vocab) or id in owner:
            raise InputError(f"{path}: token {token!r}: expected an id of its own below {len(vocab)}, found {id!r}")
        owner[id] = token
    for token in (*LETTER.values(), END):
        if token not in vocab:
            raise InputError(f"{path}: no {token!r}; expected a letter for each of the 256 bytes and {END!r}")
    return vocab


def _read_merges(path: Path, vocab: dict[str, int]) -> set[str]:
    """The tokens that the lines make, after checking that each line is possible and ids rise from line to line."""
    lines = _read_text(path).rstrip("\n").split("\n")
    made, last = set(BYTE), -1
    for number, line in enumerate(lines, start=1):
        if number == 1 and (line.startswith("#version") or not line):  # the header may be missing, as elsewhere
            continue
        pair = line.split()
        if len(pair) != 2:
            raise InputError(f"{path}, line {number}: expected two tokens, found {line!r}")
        if unknown := [token for token in pair if token not in made]:
            raise InputError(f"{path}, line {number}: {unknown[0]!r} is made by no line before")
        token = "".join(pair)
        if token not in vocab:
            raise InputError(f"{path}, line {number}: {token!r} is not in vocab.json")
        if vocab[token] <= last:
            raise InputError(f"{path}, line {number}: {token!r} has id {vocab[token]}, expected more than {last}")
        made.add(token)
        last = vocab[token]
    return made
