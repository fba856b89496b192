"""Training and answering speed beside transformers, TRL and the book's code: the same weights, records and order.

python -m tests.benchmarks.speed --size small      (nano | small | medium | large | xl: shapes, with random weights)

In each round all are measured one after the other, so that a machine whose speed drifts slows them all; a ratio is the
median over the rounds. Tokens are those of the records: padding does not count.
"""

import argparse
import logging
import math
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from sft.config import PROMPTS, DataConfig
from sft.data.dataset import Examples, encode
from sft.data.plan import Plan
from sft.data.sources import load_source
from sft.gpt2.checkpoint import load_pretrained, save_pretrained
from sft.gpt2.device import pick_device, pick_precision
from sft.gpt2.hub import PINNED
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.tokenizer import load_tokenizer
from tests.benchmarks.contestants import TRL, Apart, Book, Ours, OursCompiled, Text, Transformers, apart

SIZES = {
    "nano": GPTConfig(n_layer=4, n_head=4, n_embd=256),
    "small": GPTConfig(n_layer=12, n_head=12, n_embd=768),
    "medium": GPTConfig(n_layer=24, n_head=16, n_embd=1024),
    "large": GPTConfig(n_layer=36, n_head=20, n_embd=1280),
    "xl": GPTConfig(n_layer=48, n_head=25, n_embd=1600),
}
Rounds = dict[str, list[float]]  # of each contestant, tokens a second in each round


def text_of(examples: Examples, row: int) -> Text:
    return int(examples.prompts[row]), examples.text(row).tolist()


def ratio(rounds: Rounds, other: str) -> float:
    pairs = zip(rounds["Ours"], rounds[other], strict=True)
    return statistics.median(a / b for a, b in pairs)


def train(
    contestants: dict[str, Apart], texts: Sequence[Text], batch: int, steps: int, rounds: int, masked: bool = False
) -> tuple[Rounds, dict[str, list[float]]]:
    """Each round is `steps` steps after one that is not counted. Also the losses of the last round's steps."""
    found: Rounds = {name: [] for name in contestants}
    losses = {}
    for i in range(rounds):
        first = (i * (steps + 1) * batch) % max(1, len(texts) - (steps + 1) * batch)
        batches = [texts[first + j * batch : first + (j + 1) * batch] for j in range(steps + 1)]
        tokens = sum(len(tokens) - 1 for few in batches[1:] for _, tokens in few)
        for name, contestant in contestants.items():
            seconds = contestant.ask("train", batches, masked)
            found[name].append(tokens / sum(seconds[1:]))
            losses[name] = contestant.ask("losses")
            print(f"  {name}: {found[name][-1]:,.1f} tokens/s, losses {losses[name]}", file=sys.stderr)
    return found, losses


def answer(
    contestants: dict[str, Apart], prompts: list[list[int]], lengths: list[int], together: int, rounds: int
) -> Rounds:
    found: Rounds = {name: [] for name in contestants}
    for contestant in contestants.values():
        contestant.ask("answer", prompts[:together], [4] * len(prompts[:together]), together)
    for _ in range(rounds):
        for name, contestant in contestants.items():
            found[name].append(sum(lengths) / contestant.ask("answer", prompts, lengths, together))
            print(f"  {name}: {found[name][-1]:,.1f} tokens/s", file=sys.stderr)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small", help="(%(default)s)")
    parser.add_argument("--records", help="JSON file; else the 1,100 instructions, downloaded")
    parser.add_argument("--vocabulary", type=Path, help="folder of vocab.json and merges.txt; else GPT-2's, by the hub")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6, help="optimizer steps a round")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--only", nargs="+", default=["train", "masked", "one", "sixteen", "real"])
    parser.add_argument("--against", nargs="+", default=["Transformers", "TRL", "Book"])
    args = parser.parse_args()
    device = pick_device("auto")
    low = pick_precision("auto", device) == "bf16-mixed"
    tokenizer = load_tokenizer(args.vocabulary)
    records = load_source(DataConfig(source="json", path=args.records)).records
    examples = encode(records, PROMPTS["alpaca"], tokenizer, 1024, mask_prompt=False)
    order = Plan(len(examples), args.batch, shuffle=True, seed=123).order(0)
    texts = [text_of(examples, row) for row in order]
    kinds = [Ours, *(globals()[name] for name in args.against)]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save_pretrained(GPT(SIZES[args.size]), folder, tokenizer)
        with apart(kinds, folder, device, low) as contestants:
            if "train" in args.only:
                rounds, _ = train(contestants, texts, args.batch, args.steps, args.rounds)
                print({n: (statistics.median(r), ratio(rounds, n)) for n, r in rounds.items()})
                print({n: c.ask("peak") / 2**30 for n, c in contestants.items()})
            if "masked" in args.only:
                few = {n: c for n, c in contestants.items() if n in ("Ours", "Transformers", "TRL")}
                rounds, _ = train(few, texts, args.batch, args.steps, args.rounds, True)
                print({n: (statistics.median(r), ratio(rounds, n)) for n, r in rounds.items()})
            prompts = [t[:p] for p, t in texts]
            few = {n: c for n, c in contestants.items() if n in ("Ours", "Transformers")}
            if "one" in args.only:
                rounds = answer(few, prompts[:3], [64] * 3, 1, args.rounds)
                print({n: (statistics.median(r), ratio(rounds, n)) for n, r in rounds.items()})
            if "sixteen" in args.only:
                rounds = answer(few, prompts[:16], [64] * 16, 16, args.rounds)
                print({n: (statistics.median(r), ratio(rounds, n)) for n, r in rounds.items()})
            if "real" in args.only:
                asked = [text_of(examples, row) for row in range(935, 1045)]
                rounds = answer(few, [t[:p] for p, t in asked], [len(t) - p for p, t in asked], 16, args.rounds)
                print({n: (statistics.median(r), ratio(rounds, n)) for n, r in rounds.items()})


if __name__ == "__main__":
    main()
