"""GPT-2's tokenizer: byte-level byte-pair encoding.

It is read from `vocab.json` and `merges.txt`, or from `tokenizer.json`. All three are written.
transformers 5 writes `tokenizer.json` alone. Where a folder has all three, they must agree.

A pattern splits text into words. The bytes of a word are joined, pair by pair, in the order in
which training found the pairs (Sennrich et al., 2016; on bytes: Radford et al., 2019, 2.2). The
files spell bytes as printable letters.

tiktoken needs no list of pairs. It joins the neighbours whose union has the lowest id. That is the
same if ids rise with the lines of `merges.txt`, which is checked here.
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

# tiktoken's form of GPT-2's pattern (tiktoken_ext/openai_public.py), which stays fast on long runs
# of spaces. GPT-2's own (openai/gpt-2, src/encoder.py) is
# 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
PATTERN = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""

# `\s+(?!\S)` gives back the last character of a run of white space. For that, tiktoken's engine
# keeps a place to return to for each character, and panics at about a million. White space is
# Unicode's property White_Space, as in tiktoken. Python's `\s` has four control characters more.
SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
LONG = 10_000
LONG_RUN = re.compile(rf"(?<![{SPACE}])[{SPACE}]{{{LONG},}}")

# Spellings of the pattern in tokenizer.json: GPT-2's own, and with the contractions in one group.
_REST = r"| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS = {f"'s|'t|'re|'ve|'m|'ll|'d{_REST}", f"'(?:[sdmt]|ll|ve|re){_REST}", PATTERN}


def _spell_bytes() -> dict[int, str]:
    """Return the letter for each byte in GPT-2's files.

    A printable byte stands for itself. The others get letters from U+0100 on.
    """
    printable = [byte for byte in range(256) if chr(byte).isprintable() and byte != ord(" ")]
    letters = {byte: chr(byte) for byte in printable}
    others = [byte for byte in range(256) if byte not in letters]
    for number, byte in enumerate(others):
        letters[byte] = chr(256 + number)
    return letters


LETTER = _spell_bytes()
BYTE = {letter: byte for byte, letter in LETTER.items()}


class GPT2Encoding(tiktoken.Encoding):
    """tiktoken's encoding by GPT-2's pattern, for text of any length and kind."""

    def encode_ordinary(self, text: str) -> list[int]:
        """Return the ids of a text, in which no special token is recognised.

        A long run of white space before another character is cut before its last character. The
        pattern cuts there too: the run without its last character is a word, and what follows does
        not look back.
        """
        encode = super().encode_ordinary
        if len(text) < LONG:
            return encode(text)
        cuts = [run.end() - 1 for run in LONG_RUN.finditer(text) if run.end() < len(text)]
        tokens = []
        for first, last in pairwise([0, *cuts, len(text)]):
            tokens += encode(text[first:last])
        return tokens


@dataclass(frozen=True)
class Bpe:
    """A tokenizer as its files spell it.

    Attributes:
        tokens: the bytes and the results of the merges, with their ids.
    """

    tokens: dict[str, int]
    merges: list[tuple[str, str]]
    special: dict[str, int]


def load_tokenizer(folder: Path) -> tiktoken.Encoding:
    """Return the tokenizer in a checkpoint's folder.

    Its end token is `.eot_token`, its size `.n_vocab`. Text is encoded with `encode_ordinary`,
    which reads `<|endoftext|>` as text. A lone surrogate becomes U+FFFD.

    Raises:
        InputError: a file is missing, damaged, or describes another tokenizer than GPT-2's; or the
            files do not fit each other.
    """
    vocab = folder / VOCAB
    merges = folder / MERGES
    path = folder / TOKENIZER
    if not path.exists():
        found = _read_pair(vocab, merges, set())
    else:
        found = _read_whole(path)
        if vocab.exists() or merges.exists():
            pair = _read_pair(vocab, merges, set(found.special))
            found = _agreed(pair, found, folder)
        else:
            _check_tiktoken(found, path)
    ranks = {_bytes(token): id for token, id in found.tokens.items()}
    return GPT2Encoding(
        folder.name, pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=found.special
    )


def save_tokenizer(tokenizer: tiktoken.Encoding, folder: Path) -> None:
    """Write `vocab.json` and `merges.txt`, and `tokenizer.json`, which says the same.

    For GPT-2's own tokenizer the first two are the released files, byte for byte.
    """
    vocab, merges = spelled(tokenizer)
    (folder / VOCAB).write_text(json.dumps(vocab), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{first} {second}" for first, second in merges)]
    text = "\n".join(lines) + "\n"
    (folder / MERGES).write_text(text, encoding="utf-8", newline="\n")

    whole = Tokenizer(models.BPE(vocab, merges))
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    whole.post_processor = processors.ByteLevel(trim_offsets=False)
    whole.add_special_tokens(
        [AddedToken(token, normalized=False) for token in tokenizer.special_tokens_set]
    )
    whole.save(str(folder / TOKENIZER))


def spelled(tokenizer: tiktoken.Encoding) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return the ids by token, and the merges in order, in the letters of GPT-2's files."""
    ranks = tokenizer._mergeable_ranks
    vocab = {_spell(token): id for token, id in ranks.items()} | tokenizer._special_tokens
    merges = []
    for token in sorted(ranks, key=ranks.__getitem__):
        if len(token) > 1:
            first, second = _last_pair(token, ranks)
            merges.append((_spell(first), _spell(second)))
    return dict(sorted(vocab.items(), key=lambda item: item[1])), merges


def _bytes(token: str) -> bytes:
    return bytes(BYTE[letter] for letter in token)


def _spell(token: bytes) -> str:
    return "".join(LETTER[byte] for byte in token)


def _last_pair(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """Return the two tokens that were joined into this one.

    They are what the token's bytes become with the merges that came before it.
    """
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        unions = [ranks.get(first + second, len(ranks) + 1) for first, second in pairwise(parts)]
        at = unions.index(min(unions))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    first, second = parts
    return first, second


def decode(tokenizer: tiktoken.Encoding, tokens: Sequence[int]) -> str:
    """Return the text of tokens.

    A model may have more ids than its tokenizer, to round its size up. These have no text.
    """
    return tokenizer.decode([token for token in tokens if token < tokenizer.n_vocab])


# Reading


def _read_pair(vocab_path: Path, merges_path: Path, special: set[str]) -> Bpe:
    """Read `vocab.json` and `merges.txt`.

    Args:
        special: tokens that no merge has to make, besides those of the form `<|...|>`.
    """
    for path in (vocab_path, merges_path):
        if not path.exists():
            raise InputError(
                f"{path}: no such file; a checkpoint's tokenizer is its {VOCAB} and {MERGES}, or "
                f"its {TOKENIZER}"
            )
    vocab = read_json(vocab_path)
    _check_vocab(vocab, vocab_path)
    try:
        text = merges_path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{merges_path}: cannot be read as text ({error})") from error

    # The header may be missing, which other programs accept.
    lines = text.rstrip("\n").split("\n")
    first = 2 if lines[0].startswith("#version") or not lines[0] else 1
    pairs = []
    for number, line in enumerate(lines[first - 1 :], first):
        pairs.append((f"{merges_path}, line {number}", line))
    merges = _read_merges(pairs, vocab, VOCAB)
    return _split_special(vocab, merges, special, f"{merges_path}: no line makes", VOCAB)


def _split_special(
    vocab: dict[str, int], merges: list[tuple[str, str]], special: set[str], unmade: str, of: str
) -> Bpe:
    """Tell ordinary tokens from special ones, which no merge makes.

    Args:
        special: tokens that no merge has to make, besides those of the form `<|...|>`.
        unmade, of: start of the error for another token that no merge makes, and the vocabulary's
            name.
    """
    made = {first + second for first, second in merges} | set(BYTE)
    for token in vocab:
        named = (token.startswith("<|") and token.endswith("|>")) or token in special
        if token not in made and not named:
            raise InputError(f"{unmade} the token {token!r} of {of}")
    ordinary = {token: id for token, id in vocab.items() if token in made}
    others = {token: id for token, id in vocab.items() if token not in made}
    return Bpe(ordinary, merges, others)


def _check_vocab(vocab: dict[str, Any], path: Path) -> None:
    """Raise InputError unless each token has an id of its own and no byte is missing."""
    size = len(vocab)
    seen: set[int] = set()
    for token, id in vocab.items():
        if type(id) is not int or not 0 <= id < size or id in seen:
            raise InputError(
                f"{path}: token {token!r}: expected an id of its own below {size}, found {id!r}"
            )
        seen.add(id)
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
        lines: the place of each pair, for errors, and the pair: a list of two tokens, or a text
            with a space between them.
        of: name of the vocabulary, for errors.
    """
    made = set(BYTE)
    last = -1
    merges = []
    for where, line in lines:
        pair = line.split() if isinstance(line, str) else line
        are_texts = isinstance(pair, list) and all(isinstance(token, str) for token in pair)
        if not are_texts or len(pair) != 2:
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
    """Read `tokenizer.json`. An error names what differs from GPT-2's tokenizer."""
    found = read_json(path)
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
                f"{path}: token {token!r} has id {vocab[token]!r} in model.vocab and {id} as added "
                "token"
            )
    vocab = vocab | special
    _check_vocab(vocab, path)

    merges = model.get("merges")
    if not isinstance(merges, list):
        raise InputError(
            f"{path}: model.merges: expected a list of pairs, found {type(merges).__name__}"
        )
    lines = [(f"{path}: merge {number}", pair) for number, pair in enumerate(merges, 1)]
    pairs = _read_merges(lines, vocab, "model.vocab")
    return _split_special(vocab, pairs, set(special), f"{path}: no merge makes", "model.vocab")


def _check_steps(found: dict[str, Any], model: dict[str, Any], path: Path) -> None:
    """Raise InputError if a step of the tokenizer is not GPT-2's."""

    def expect(same: bool, key: str, value: Any) -> None:
        if same:
            return
        shown = json.dumps(value, ensure_ascii=False)
        if len(shown) > 200:
            shown = f"{shown[:200]}..."
        raise InputError(
            f"{path}: {key}: {shown} is not GPT-2's, and no other tokenizer is implemented; if the "
            f"model was trained with GPT-2's, put its {VOCAB} and {MERGES} here instead of this "
            "file"
        )

    normalizer = found.get("normalizer")
    expect(not _steps(normalizer, "normalizers"), "normalizer", normalizer)
    pre_tokenizer = found.get("pre_tokenizer")
    expect(_splits_as_gpt2(pre_tokenizer), "pre_tokenizer", pre_tokenizer)
    post_processor = found.get("post_processor")
    expect(_adds_nothing(post_processor), "post_processor", post_processor)
    decoder = found.get("decoder")
    is_plain = _kinds(_steps(decoder, "decoders")) in ([], ["ByteLevel"])
    expect(is_plain, "decoder", decoder)

    kind = model.get("type", "BPE")
    expect(kind == "BPE", "model.type", kind)
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        expect(not model.get(key), f"model.{key}", model.get(key))


def _steps(step: Any, inner: str) -> list[Any]:
    """Return the steps of a sequence, whose parts may be sequences too.

    Args:
        step: a sequence or a single step; None: no step.
        inner: key of a sequence's parts.
    """
    if step is None:
        return []
    is_sequence = isinstance(step, dict) and step.get("type") == "Sequence"
    if not is_sequence or not isinstance(step.get(inner), list):
        return [step]
    steps = []
    for part in step[inner]:
        steps += _steps(part, inner)
    return steps


def _kinds(steps: list[Any]) -> list[Any]:
    return [step.get("type") if isinstance(step, dict) else None for step in steps]


def _splits_as_gpt2(step: Any) -> bool:
    """Return whether text is split by GPT-2's pattern and spelled in its letters.

    One step may do both, or one step each.
    """
    steps = _steps(step, "pretokenizers")
    kinds = _kinds(steps)
    if kinds not in (["ByteLevel"], ["Split", "ByteLevel"]):
        return False
    if steps[-1].get("add_prefix_space", True):
        return False
    if kinds == ["ByteLevel"]:
        return bool(steps[0].get("use_regex", True))
    pattern = steps[0].get("pattern")
    known = isinstance(pattern, dict) and pattern.get("Regex") in PATTERNS
    isolated = steps[0].get("behavior") == "Isolated" and not steps[0].get("invert")
    return known and isolated and not steps[1].get("use_regex", True)


def _adds_nothing(step: Any) -> bool:
    """Return whether a text gets no token before or after it."""
    for one in _steps(step, "processors"):
        kinds = _kinds([one])
        if kinds == ["TemplateProcessing"]:
            parts = one.get("single")
            if not isinstance(parts, list):
                return False
            if not all(isinstance(part, dict) and "Sequence" in part for part in parts):
                return False
        elif kinds != ["ByteLevel"]:
            return False
    return True


def _read_added(added: Any, path: Path) -> dict[str, int]:
    """Return the ids of the special tokens.

    Raises:
        InputError: a token would be found inside ordinary text.
    """
    special: dict[str, int] = {}
    for token in added if isinstance(added, list) else [added]:
        has_content = isinstance(token, dict) and isinstance(token.get("content"), str)
        if not has_content or type(token.get("id")) is not int:
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
                f"{path}: added token {name!r} is not special, so it would be found inside words; "
                "GPT-2 has no such tokens and they are not implemented"
            )
        if special.get(name, token["id"]) != token["id"]:
            raise InputError(
                f"{path}: added token {name!r} has two ids, {special[name]} and {token['id']}"
            )
        special[name] = token["id"]
    return special


def _check_tiktoken(found: Bpe, path: Path) -> None:
    """Raise InputError if tiktoken would make a token from another pair than the file's merge.

    The top of this file says how tiktoken finds pairs.
    """
    ranks = {_bytes(token): id for token, id in found.tokens.items()}
    for number, (first, second) in enumerate(found.merges, 1):
        last = _last_pair(_bytes(first + second), ranks)
        if last != (_bytes(first), _bytes(second)):
            instead = " + ".join(repr(_spell(part)) for part in last)
            raise InputError(
                f"{path}: merge {number}: {first!r} + {second!r} is never reached, as the merges "
                f"before it give {instead}; get the original merges, in their order"
            )


def _agreed(pair: Bpe, whole: Bpe, folder: Path) -> Bpe:
    """Return the tokenizer that both describe, with the special tokens of both.

    Raises:
        InputError: they disagree. Then nobody knows which of them the model was trained with.
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
            f"{folder}: {TOKENIZER} disagrees with {VOCAB} and {MERGES}: {difference}; delete "
            "those that the model was not trained with"
        )
    return Bpe(pair.tokens, pair.merges, special)


def _first_difference(pair: Bpe, whole: Bpe) -> str | None:
    """Return one thing in which the two forms of a tokenizer differ; None: they agree."""
    # One form may have special tokens that the other lacks. Those of both must have the same ids.
    tokens = pair.tokens.keys() | whole.tokens.keys()
    special = pair.special.keys() & whole.special.keys()
    for kind, names, ours, theirs in (
        ("token", tokens, pair.tokens, whole.tokens),
        ("special token", special, pair.special, whole.special),
    ):
        if ours == theirs:
            continue
        wrong = [name for name in names if ours.get(name) != theirs.get(name)]
        if wrong:
            name = min(wrong)
            one = theirs.get(name, "none")
            other = ours.get(name, "none")
            return f"{kind} {name!r} has id {one} in the one and {other} in the others"

    for number, (one_pair, other_pair) in enumerate(
        zip(whole.merges, pair.merges, strict=False), 1
    ):
        if one_pair != other_pair:
            one_text = " ".join(one_pair)
            other_text = " ".join(other_pair)
            return f"merge {number} is {one_text!r} in the one and {other_text!r} in the others"
    return None
