"""The released GPT-2s, against published losses and against transformers: `make test-gpt2`.

It needs the network, downloads about 2 GB, and takes about 6 GB of memory. Every check prints a
line. The exit code is 1 if one failed. `--fewer` leaves gpt2-medium out.
"""

import argparse
import hashlib
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import requests
import torch
import yaml
from transformers import GPT2LMHeadModel

import sft
from tests.gpt2_released import book

ROOT = Path(__file__).parents[2]
SMALL = "openai-community/gpt2"
MEDIUM = "openai-community/gpt2-medium"
NEW_TOKENS = 20
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea,",
    "def fibonacci(n):\n    ",
    "1, 2, 3, 4,",
    "Below is an instruction that describes a task.",
)


class Checks:
    """Prints each check and remembers whether one failed."""

    def __init__(self) -> None:
        self.failed: list[str] = []

    def near(self, what: str, found: float, published: float, tolerance: float) -> None:
        """A number against the published one. NaN is near to nothing."""
        line = f"{what}: {found:.3f}, published {published:.3f}, tolerance {tolerance}"
        self._add(line, abs(found - published) <= tolerance)

    def same(self, what: str, found: object, expected: object) -> None:
        line = f"{what}: the same"
        if found != expected:
            line = f"{what}: found {found!r}, expected {expected!r}"
        self._add(line, found == expected)

    def _add(self, line: str, passed: bool) -> None:
        print(f"{'ok    ' if passed else 'FAILED'} {line}", flush=True)
        if not passed:
            self.failed.append(line)


def download(data: str) -> list[book.Record]:
    """The records of `data=NAME`, from the URL in its config, checked by the hash if it has one."""
    config = yaml.safe_load((ROOT / "conf" / "data" / f"{data}.yaml").read_text(encoding="utf-8"))
    try:
        answer = requests.get(config["url"], timeout=60)
        answer.raise_for_status()
    except requests.RequestException as error:
        sys.exit(f"error: {config['url']}: the download failed ({error}); this needs the network")
    sha256 = hashlib.sha256(answer.content).hexdigest()
    expected = config.get("sha256", sha256)
    if sha256 != expected:
        sys.exit(f"error: {config['url']}: sha256 {sha256}, expected {expected}; download it again")
    return json.loads(answer.content)


def check_losses(
    checks: Checks,
    folder: str,
    parts: dict[str, Sequence[book.Record]],
    published: tuple[float, float],
    tolerance: float,
) -> None:
    """Compare the losses before training, over training and validation, with published ones."""
    gpt2 = sft.load_pretrained(folder)
    context = gpt2.model.config.n_positions
    found = book.initial_losses(gpt2.model.eval(), parts, gpt2.tokenizer, context)
    for name, ours, theirs in zip(("train", "validation"), found, published, strict=True):
        what = f"{folder}, {len(parts['train'])} training records, {name} loss"
        checks.near(what, ours, theirs, tolerance)


def check_tokens(checks: Checks, folder: str, prompts: Sequence[str] = PROMPTS) -> None:
    """Compare the likeliest tokens after each prompt with those of transformers."""
    gpt2 = sft.load_pretrained(folder)
    ids = [gpt2.tokenizer.encode_ordinary(prompt) for prompt in prompts]
    ours = sft.generate(gpt2.model, ids, NEW_TOKENS)
    theirs = GPT2LMHeadModel.from_pretrained(folder, revision=gpt2.revision or "main")
    theirs.float().eval()
    for prompt, mine, given in zip(prompts, ours, ids, strict=True):
        what = f"{folder}, {NEW_TOKENS} tokens after {prompt!r}"
        checks.same(what, mine, likeliest(theirs, given, NEW_TOKENS))


@torch.no_grad()
def likeliest(model: GPT2LMHeadModel, prompt: list[int], count: int) -> list[int]:
    """The likeliest tokens after a prompt, each from a pass over all tokens before it."""
    tokens = list(prompt)
    for _ in range(count):
        logits = model(torch.tensor([tokens])).logits
        tokens.append(int(logits[0, -1].argmax()))
    return tokens[len(prompt) :]


def alpaca_sample(records: list[book.Record]) -> list[book.Record]:
    """1,000 records drawn with seed 123. The published run may have drawn others."""
    return random.Random(book.SEED).sample(records, 1000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fewer", action="store_true", help="gpt2 alone, without gpt2-medium")
    small_alone = parser.parse_args().fewer

    checks = Checks()
    alpaca = book.split(alpaca_sample(download("alpaca")), 0.8, 0.1)
    check_losses(checks, SMALL, alpaca, (3.571, 3.468), tolerance=0.3)
    check_tokens(checks, SMALL)
    if not small_alone:
        instructions = book.split(download("instructions"), 0.85, 0.1)
        check_losses(checks, MEDIUM, instructions, (3.826, 3.762), tolerance=0.02)
        check_tokens(checks, MEDIUM)
    if checks.failed:
        sys.exit(f"error: {len(checks.failed)} checks failed")


if __name__ == "__main__":
    main()
