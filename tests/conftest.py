"""Fixtures of several rooms' tests: a tiny tokenizer, a tiny checkpoint, train.py, no network."""

import logging
import os
import sys
from collections.abc import Callable, Iterator

# huggingface_hub reads this when it is imported, and torch the number of threads, also in the
# processes that tests start. A small model would only wait for its threads.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"

from pathlib import Path

import pytest
import tiktoken
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from sft.checkpoint.folder import save_pretrained
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.tokenizer import END, load_tokenizer
from sft.prompts import PROMPTS

ROOT = Path(__file__).parents[1]

# The merges are learned from this text. It has words, contractions, numbers, code, blanks, and
# letters of several bytes.
TEXT = """Below is an instruction that describes a task. \
Write a response that appropriately completes the request.
### Instruction: What is the capital of France? ### Response: The capital of France is Paris.
The chef cooks the meal every day. It's raining, isn't it? \
We'll see 12 birds, 34 fish and 1,234 trees.   def f(x):
    return x  # aaaa bbbb abab hahaha naïve café 日本語 😀
"""


def train_bpe(folder: Path, size: int = 400) -> Path:
    """Write vocab.json and merges.txt of a byte-level BPE.

    Args:
        size: tokens of the vocabulary; the last is the end token.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    tokenizer.add_special_tokens([END])

    # Only the whole tokenizer knows its special tokens. A released vocab.json has the end token
    # too, so it is written there.
    tokenizer.model.save(str(folder))
    vocab = (folder / "vocab.json").read_text(encoding="utf-8")
    end = f',"{END}":{tokenizer.token_to_id(END)}}}'
    (folder / "vocab.json").write_text(vocab.removesuffix("}") + end, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def bpe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny vocab.json and merges.txt (400 tokens)."""
    return train_bpe(tmp_path_factory.mktemp("bpe"))


@pytest.fixture(scope="session")
def tokenizer(bpe: Path) -> tiktoken.Encoding:
    return load_tokenizer(bpe)


@pytest.fixture(scope="session")
def letters() -> tiktoken.Encoding:
    """A tokenizer for ids written by hand: each byte is its own token, 256 is the end token."""
    bytes_alone = {bytes([byte]): byte for byte in range(256)}
    return tiktoken.Encoding(
        "letters", pat_str=r"[\s\S]", mergeable_ranks=bytes_alone, special_tokens={END: 256}
    )


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, tokenizer: tiktoken.Encoding) -> Path:
    """A random checkpoint of two layers, as `save_pretrained` writes it. Tests change a copy."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    torch.manual_seed(0)
    config = GPTConfig(
        n_layer=2, n_head=2, n_embd=16, vocab_size=tokenizer.n_vocab, n_positions=128
    )
    save_pretrained(GPT(config), folder, tokenizer, prompt=PROMPTS["alpaca"], base="someone/base")
    return folder


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`python train.py *arguments` in this process and an empty folder.

    A refused or interrupted run raises SystemExit, as the command ends.
    """
    from hydra.core.global_hydra import GlobalHydra

    import train
    from sft import launch

    GlobalHydra.instance().clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "FULL_ERROR", False)

    # `launch.run` sets these for the processes that it starts. They are put back after the test.
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("SFT_ONE_LINE", "")

    def call(*arguments: str) -> None:
        monkeypatch.setattr(
            sys, "argv", ["train.py", "--config-path", str(ROOT / "conf"), *arguments]
        )
        launch.run(train.main)

    return call


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """Put back, after each test, what a run does to the logs."""
    names = ("sft", "lightning.pytorch", "lightning.fabric", "hydra")
    logs = [logging.getLogger(name) for name in names]
    before = [(log.handlers[:], log.level, log.propagate) for log in logs]
    yield
    for log, (handlers, level, propagate) in zip(logs, before, strict=True):
        log.handlers[:] = handlers
        log.propagate = propagate
        log.setLevel(level)
