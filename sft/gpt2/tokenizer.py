"""GPT-2's tokenizer: byte-level byte-pair encoding.

It is read from `vocab.json` and `merges.txt`, or from `tokenizer.json`. All three are written.
transformers 5 writes `tokenizer.json` alone. Where a folder has all three, they must agree.

Text is cut into words by a pattern, and a word's bytes are joined, pair by pair, in the order in which training found
the pairs (Sennrich et al., 2016; on bytes: Radford et al., 2019, 2.2). The two files spell bytes as printable letters.
tiktoken needs no list of pairs: it joins the neighbours whose union has the lowest id, which is the same as long as
ids rise with the lines of `merges.txt`; that is checked here.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import tiktoken
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

from sft.atomic import read_json
from sft.errors import InputError

# The files that hold a tokenizer, in a Hugging Face folder.
VOCAB = "vocab.json"
MERGES = "merges.txt"
TOKENIZER = "tokenizer.json"

END = "<|endoftext|>"

# GPT-2's pattern (openai/gpt-2, src/encoder.py) is 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|
# \s+(?!\S)|\s+ ; this is tiktoken's equal of it (tiktoken_ext/openai_public.py), which does not slow down on long
# runs of spaces.
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""

# `\s+(?!\S)` gives back one character of a run of white space, and tiktoken's engine keeps a place to go back to for
# each of them: at about a million it panics. White space is Unicode's property White_Space, as in tiktoken, and not
# Python's `\s`, which has four controls more.
SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
LONG = 10_000
LONG_RUN = re.compile(rf"(?<![{SPACE}])[{SPACE}]{{{LONG},}}")

# The same pattern as tokenizers may spell it: GPT-2's own, and with the contractions in one group.
_REST = r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = {f"'s|'t|'re|'ve|'m|'ll|'d{_REST}", f"'(?:[sdmt]|ll|ve|re){_REST}", PATTERN}


def _spell_bytes() -> dict[int, str]:
    """The letter that stands for each byte in GPT-2's files: itself if printable, else one from U+0100 on."""
    printable = [byte for byte in range(256) if chr(byte).isprintable() and byte != ord(" ")]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {
        byte: chr(256 + n) for n, byte in enumerate(others)
    }


LETTER = _spell_bytes()
BYTE = {letter: byte for byte, letter in LETTER.items()}


class GPT2Encoding(tiktoken.Encoding):
    """tiktoken's encoding by GPT-2's pattern, for text of any length and kind."""

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a text, in which no special token is recognised.

        A long run of white space before another character is cut before its last character. The pattern cuts there
        too: the run without its last character is a word, and what follows does not look back.
        """
        encode = super().encode_ordinary
        if len(text) < LONG:
            return encode(text)
        cuts = [run.end() - 1 for run in LONG_RUN.finditer(text) if run.end() < len(text)]
        return [
            token
            for first, last in pairwise([0, *cuts, len(text)])
            for token in encode(text[first:last])
        ]


@dataclass(frozen=True)
class Bpe:
    """A tokenizer as its files spell it."""

    tokens: dict[str, int]  # bytes and what the merges make
    merges: list[tuple[str, str]]
    special: dict[str, int]


def load_tokenizer(folder: Path) -> tiktoken.Encoding:
    """Return the tokenizer in a checkpoint's folder. Its end token is `.eot_token`, its size `.n_vocab`.

    Text is encoded with `encode_ordinary`, which reads `<|endoftext|>` as text; a lone surrogate becomes U+FFFD.

    Raises:
        InputError: a file is missing, cannot be read as what it should be, or asks for another tokenizer than GPT-2's;
            or the files do not fit each other.
    """
    whole = _read_whole(folder / TOKENIZER) if (folder / TOKENIZER).exists() else None
    if whole and not (folder / VOCAB).exists() and not (folder / MERGES).exists():
        found = whole
        _check_tiktoken(found, folder / TOKENIZER)
    else:
        found = _read_pair(folder / VOCAB, folder / MERGES, set(whole.special) if whole else set())
        if whole:
            found = _agreed(found, whole, folder)
    ranks = {_bytes(token): id for token, id in found.tokens.items()}
    return GPT2Encoding(
        folder.name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=found.special
    )


def save_tokenizer(tokenizer: tiktoken.Encoding, folder: Path) -> None:
    """Write `vocab.json` and `merges.txt`, which for GPT-2's own tokenizer are the released files, byte for byte; and
    `tokenizer.json`, which says the same."""
    vocab, merges = spelled(tokenizer)
    lines = [f"{first} {second}\n" for first, second in merges]
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_text(
        "#version: 0.2\n" + "".join(lines), encoding="utf-8", newline="\n"
    )
    whole = Tokenizer(models.BPE(vocab, merges))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    whole.post_processor = processors.ByteLevel(trim_offsets=False)
    whole.add_special_tokens(
        [AddedToken(token, normalized=False) for token in tokenizer.special_tokens_set]
    )
    whole.save(str(folder / "tokenizer.json"))


def spelled(tokenizer: tiktoken.Encoding) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The tokens by id and the merges in their order, in the letters of GPT-2's files."""
    ranks, special = tokenizer._mergeable_ranks, tokenizer._special_tokens
    vocab = {_spell(token): id for token, id in ranks.items()} | special
    pairs = (
        _last_pair(token, ranks) for token in sorted(ranks, key=ranks.__getitem__) if len(token) > 1
    )
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


def decode(tokenizer: tiktoken.Encoding, tokens: Sequence[int]) -> str:
    """The text of tokens. A model may have more ids than its tokenizer, to round its size up; they have no text."""
    return tokenizer.decode([token for token in tokens if token < tokenizer.n_vocab])


# Reading


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise InputError(
            f"{path}: no such file; a checkpoint's tokenizer is its {VOCAB} and {MERGES}, or its "
            f"{TOKENIZER}"
        )


def _read_text(path: Path) -> str:
    _check_exists(path)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error})") from error


def _read_object(path: Path, what: str) -> dict[str, Any]:
    _check_exists(path)
    return read_json(path, f"an object {what}")


def _read_pair(vocab_path: Path, merges_path: Path, special: set[str]) -> Bpe:
    """Read `vocab.json` and `merges.txt`.

    Args:
        special: tokens that no merge has to make, beside those of the form `<|...|>`.
    """
    vocab = _read_object(vocab_path, "of tokens and ids")
    _check_vocab(vocab, vocab_path)
    lines = _read_text(merges_path).rstrip("\n").split("\n")
    # The header may be missing, as elsewhere.
    first = 2 if lines[0].startswith("#version") or not lines[0] else 1
    pairs = [
        (f"{merges_path}, line {number}", line)
        for number, line in enumerate(lines[first - 1 :], first)
    ]
    merges = _read_merges(pairs, vocab, VOCAB)
    return _sorted_out(vocab, merges, special, f"{merges_path}: no line makes", VOCAB)


def _sorted_out(
    vocab: dict[str, int], merges: list[tuple[str, str]], special: set[str], unmade: str, of: str
) -> Bpe:
    """Tell ordinary tokens from special ones, which are those that no merge makes."""
    made = {first + second for first, second in merges} | set(BYTE)
    for token in vocab:
        named = (token.startswith("<|") and token.endswith("|>")) or token in special
        if token not in made and not named:
            raise InputError(f"{unmade} the token {token!r} of {of}")
    ordinary = {token: id for token, id in vocab.items() if token in made}
    return Bpe(ordinary, merges, {token: id for token, id in vocab.items() if token not in made})


def _check_vocab(vocab: dict[str, Any], path: Path) -> None:
    owner: dict[int, str] = {}
    for token, id in vocab.items():
        if type(id) is not int or not 0 <= id < len(vocab) or id in owner:
            raise InputError(
                f"{path}: token {token!r}: expected an id of its own below {len(vocab)}, found {id!r}"
            )
        owner[id] = token
    for token in (*LETTER.values(), END):
        if token not in vocab:
            raise InputError(
                f"{path}: no {token!r}; expected a letter for each of the 256 bytes and {END!r}"
            )


def _read_merges(
    lines: Iterable[tuple[str, Any]], vocab: dict[str, int], of: str
) -> list[tuple[str, str]]:
    """Return the pairs, after checking that each is possible and that ids rise from pair to pair.

    Args:
        lines: where each pair stands, and the pair, as text with a space between the two tokens or as a list of them.
        of: the file with the vocabulary.
    """
    made, last = set(BYTE), -1
    merges = []
    for where, line in lines:
        pair = line.split() if isinstance(line, str) else line
        if (
            not isinstance(pair, list)
            or len(pair) != 2
            or not all(isinstance(token, str) for token in pair)
        ):
            raise InputError(f"{where}: expected two tokens, found {line!r}")
        first, second = pair
        if unknown := [token for token in pair if token not in made]:
            raise InputError(f"{where}: {unknown[0]!r} is made by no line before")
        token = first + second
        if token not in vocab:
            raise InputError(f"{where}: {token!r} is not in {of}")
        if vocab[token] <= last:
            raise InputError(f"{where}: {token!r} has id {vocab[token]}, expected more than {last}")
        made.add(token)
        merges.append((first, second))
        last = vocab[token]
    return merges


# tokenizer.json, the format of Hugging Face's tokenizers (huggingface.co/docs/tokenizers)


def _read_whole(path: Path) -> Bpe:
    """Read `tokenizer.json`; what differs from GPT-2's tokenizer is refused by name."""
    found = _read_object(path, "with a model")
    model = found.get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict):
        raise InputError(
            f"{path}: model: expected an object with vocab and merges; get the file again"
        )
    _check_steps(found, model, path)

    special = _read_added(found.get("added_tokens") or [], path)
    vocab = model["vocab"]
    for token, id in special.items():
        if vocab.get(token, id) != id:
            raise InputError(
                f"{path}: token {token!r} has id {vocab[token]!r} in model.vocab and {id} as added token"
            )
    vocab = vocab | special
    _check_vocab(vocab, path)

    merges = model.get("merges")
    if not isinstance(merges, list):
        raise InputError(
            f"{path}: model.merges: expected a list of pairs, found {type(merges).__name__}"
        )
    pairs = _read_merges(
        ((f"{path}: merge {n}", pair) for n, pair in enumerate(merges, 1)), vocab, "model.vocab"
    )
    return _sorted_out(vocab, pairs, set(special), f"{path}: no merge makes", "model.vocab")


def _check_steps(found: dict[str, Any], model: dict[str, Any], path: Path) -> None:
    """Raise InputError if a step of the tokenizer is not GPT-2's: normaliser, words, pairs, frame or decoder."""
    expected: dict[str, tuple[Any, bool]] = {
        "normalizer": (found.get("normalizer"), not _steps(found.get("normalizer"), "normalizers")),
        "pre_tokenizer": (found.get("pre_tokenizer"), _is_gpt2s(found.get("pre_tokenizer"))),
        "post_processor": (found.get("post_processor"), _adds_nothing(found.get("post_processor"))),
        "decoder": (
            found.get("decoder"),
            _kinds(_steps(found.get("decoder"), "decoders")) in ([], ["ByteLevel"]),
        ),
        "model.type": (model.get("type", "BPE"), model.get("type", "BPE") == "BPE"),
    }
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        expected[f"model.{key}"] = (model.get(key), not model.get(key))
    for key, (value, same) in expected.items():
        if not same:
            shown = json.dumps(value, ensure_ascii=False)
            shown = shown if len(shown) <= 200 else f"{shown[:200]}..."
            raise InputError(
                f"{path}: {key}: {shown} is not GPT-2's, and no other tokenizer is implemented; if the model was "
                f"trained with GPT-2's, put its {VOCAB} and {MERGES} here instead of this file"
            )


def _steps(step: Any, inner: str) -> list[Any]:
    """Return the steps of a sequence, which may be in one another; a single step is a sequence of one."""
    if step is None:
        return []
    if (
        isinstance(step, dict)
        and step.get("type") == "Sequence"
        and isinstance(step.get(inner), list)
    ):
        return [one for part in step[inner] for one in _steps(part, inner)]
    return [step]


def _kinds(steps: list[Any]) -> list[Any]:
    return [step.get("type") if isinstance(step, dict) else None for step in steps]


def _is_gpt2s(step: Any) -> bool:
    """Whether words are cut by GPT-2's pattern and spelled in its letters, in one step or in two."""
    steps = _steps(step, "pretokenizers")
    kinds = _kinds(steps)
    if kinds not in (["ByteLevel"], ["Split", "ByteLevel"]) or steps[-1].get(
        "add_prefix_space", True
    ):
        return False
    if kinds == ["ByteLevel"]:
        return bool(steps[0].get("use_regex", True))
    pattern = steps[0].get("pattern")
    known = isinstance(pattern, dict) and pattern.get("Regex") in PATTERNS
    isolated = steps[0].get("behavior") == "Isolated" and not steps[0].get("invert")
    return known and isolated and not steps[1].get("use_regex", True)


def _adds_nothing(step: Any) -> bool:
    """Whether a text gets no token before or behind it."""
    for one in _steps(step, "processors"):
        if _kinds([one]) == ["TemplateProcessing"]:
            parts = one.get("single")
            if not isinstance(parts, list) or any(
                not isinstance(part, dict) or "Sequence" not in part for part in parts
            ):
                return False
        elif _kinds([one]) != ["ByteLevel"]:
            return False
    return True


def _read_added(added: Any, path: Path) -> dict[str, int]:
    """Return the special tokens by their ids; a token that would be found inside ordinary text is refused."""
    special: dict[str, int] = {}
    for token in added if isinstance(added, list) else [added]:
        if (
            not isinstance(token, dict)
            or not isinstance(token.get("content"), str)
            or type(token.get("id")) is not int
        ):
            raise InputError(
                f"{path}: added_tokens: expected objects with content and id, found {token!r}"
            )
        name = token["content"]
        for flag in ("single_word", "lstrip", "rstrip"):
            if token.get(flag):
                raise InputError(
                    f"{path}: added token {name!r}: {flag} is not GPT-2's and is not implemented"
                )
        if not token.get("special"):
            raise InputError(
                f"{path}: added token {name!r}: is not special, so it would be found inside words; GPT-2 has no such "
                "tokens and they are not implemented"
            )
        if special.get(name, token["id"]) != token["id"]:
            raise InputError(
                f"{path}: added token {name!r}: has two ids, {special[name]} and {token['id']}"
            )
        special[name] = token["id"]
    return special


def _check_tiktoken(found: Bpe, path: Path) -> None:
    """Raise InputError if a merge is not the one by which tiktoken would make its token (see the top of this file)."""
    ranks = {_bytes(token): id for token, id in found.tokens.items()}
    for number, (first, second) in enumerate(found.merges, 1):
        last = _last_pair(_bytes(first + second), ranks)
        if last != (_bytes(first), _bytes(second)):
            instead = " + ".join(repr(_spell(part)) for part in last)
            raise InputError(
                f"{path}: merge {number}: {first!r} + {second!r} is never reached, as the merges before it give "
                f"{instead}; expected merges as training finds them"
            )


def _agreed(pair: Bpe, whole: Bpe, folder: Path) -> Bpe:
    """Return what both say, with the special tokens of both.

    Raises:
        InputError: they disagree; then nobody knows which of them the model was trained with.
    """
    difference = _first_difference(pair, whole)
    special = pair.special | whole.special
    ids = sorted([*pair.tokens.values(), *special.values()])
    if not difference and ids != list(range(len(ids))):
        difference = (
            f"the ids of their special tokens, {special}, are not each its own, or leave gaps"
        )
    if difference:
        raise InputError(
            f"{folder}: {TOKENIZER} disagrees with {VOCAB} and {MERGES}: {difference}; delete those that the model was "
            "not trained with"
        )
    return Bpe(pair.tokens, pair.merges, special)


def _first_difference(pair: Bpe, whole: Bpe) -> str | None:
    for of, one, other in (
        ("token", pair.tokens, whole.tokens),
        ("special token", pair.special, whole.special),
    ):
        keys = one.keys() | other.keys() if of == "token" else one.keys() & other.keys()
        wrong = (
            sorted(token for token in keys if one.get(token) != other.get(token))
            if one != other
            else []
        )
        if wrong:
            ids = [str(ids.get(wrong[0], "none")) for ids in (other, one)]
            return f"{of} {wrong[0]!r} has id {ids[0]} in the one and {ids[1]} in the others"
    for number, (theirs, ours) in enumerate(zip(whole.merges, pair.merges, strict=False), 1):
        if theirs != ours:
            return f"merge {number} is {' '.join(theirs)!r} in the one and {' '.join(ours)!r} in the others"
    return None
