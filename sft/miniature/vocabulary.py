"""A byte-level BPE like GPT-2's, of 4,096 tokens: 256 bytes, 3,839 merges, and the end token."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 4096
END_TOKEN = "<|endoftext|>"

# The words of the prompt templates. The merges learn them, so that a prompt has few tokens. The
# base model never sees them.
TEMPLATE_WORDS = """\
Below is an instruction that describes a task. \
Write a response that appropriately completes the request.

### Instruction:
Below is an instruction that describes a task, paired with an input that provides further context. \
Write a response that appropriately completes the request.

### Input:

### Response:
<|user|>
<|assistant|>
"""


def byte_alphabet() -> list[str]:
    """Return the printable letters of the 256 bytes in GPT-2's order, that of their code points."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def tokens_in_order(merges: list[tuple[str, str]]) -> list[str]:
    return [*byte_alphabet(), *(left + right for left, right in merges), END_TOKEN]


def learn_merges(texts: Iterable[str], template_copies: int = 2000) -> list[tuple[str, str]]:
    """Return the merges of a BPE learned from `texts` and the template words.

    Each makes one new token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)

    # Two merges may spell the same token, of which one is dropped. So a few more are learned.
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE + 64,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=byte_alphabet(),
    )
    tokenizer.train_from_iterator(with_templates(texts, template_copies), trainer)
    merges = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    return first_spellings(merges)[: VOCAB_SIZE - 257]


def with_templates(texts: Iterable[str], copies: int) -> Iterator[str]:
    yield from texts
    for _ in range(copies):
        yield TEMPLATE_WORDS


def first_spellings(merges: list[tuple[str, str]]) -> list[tuple[str, str]]:
    by_token = dict[str, tuple[str, str]]()
    for left, right in merges:
        by_token.setdefault(left + right, (left, right))
    return list(by_token.values())


def bpe(merges: list[tuple[str, str]]) -> Tokenizer:
    """Return the tokenizer of `merges`, as `transformers` builds it for GPT-2."""
    ids = {token: i for i, token in enumerate(tokens_in_order(merges))}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def write_bpe_files(merges: list[tuple[str, str]], folder: Path) -> None:
    """Write `vocab.json` and `merges.txt`, as a GPT-2 checkpoint has them."""
    ids = {token: i for i, token in enumerate(tokens_in_order(merges))}
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
