"""Training and answering beside transformers, TRL and the book's code: the same weights, records and order.

In each round all are measured one after the other, so that a machine whose speed drifts slows them all; a ratio is the
median over the rounds. Tokens are those of the records: padding does not count.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import torch
from torch.nn.functional import linear

from sft.checkpoint.folder import save_pretrained
from sft.config.schema import OptimConfig
from sft.data.batches import Examples, encode
from sft.data.plan import Plan
from sft.data.sources import Source
from sft.device import keep_freed_memory
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.tokenizer import load_tokenizer
from sft.prompts import PROMPTS
from sft.training.optim import adamw
from tests.benchmarks.contestants import TRL, Apart, Book, Ours, Text, Transformers, apart

SIZES = {
    "nano": GPTConfig(n_layer=4, n_head=4, n_embd=256),
    "small": GPTConfig(n_layer=12, n_head=12, n_embd=768),
    "medium": GPTConfig(n_layer=24, n_head=16, n_embd=1024),
    "large": GPTConfig(n_layer=36, n_head=20, n_embd=1280),
    "xl": GPTConfig(n_layer=48, n_head=25, n_embd=1600),
}
BATCH, TOGETHER, NEW, REAL = 8, 16, 64, 32
LARGE = 64  # records in a batch, and prompts together, on a GPU too
PUBLISHED = 935  # records that the published run trained on, twice, in batches of 8
Rounds = dict[str, list[float]]  # of each contestant, tokens a second in each round
Row = tuple[str, dict[str, str]]  # what was measured, and a cell for each contestant


class Trials(NamedTuple):
    """How much is measured."""

    rounds: int
    steps: int  # of the optimizer in a round, beside one that is not counted
    alone: int  # prompts that are answered one by one
    real: int  # test records that are answered up to the length of their expected answers
    book: int  # of those, how many the book's code is given, whose answers take minutes: the last


def measure(
    size: str, source: Source, vocabulary: Path, device: str, low: bool, trials: Trials
) -> list[Row]:
    """The rows of the table; what was measured in each round goes to stderr."""
    tokenizer = load_tokenizer(vocabulary)
    examples = encode(source.records, PROMPTS["alpaca"], tokenizer, 1024, mask_prompt=False)
    order = Plan(len(examples), BATCH, shuffle=True, seed=123).order(0)
    texts = [text_of(examples, int(row)) for row in order]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save_pretrained(GPT(SIZES[size]), folder, tokenizer)
        with apart([Ours, Transformers, TRL, Book], folder, device, low) as contestants:
            rows = training(contestants, texts, trials, SIZES[size], device, low)
        if device == "cuda":
            with apart([Ours, Transformers], folder, device, low) as contestants:
                rows += on_gpu(contestants, texts, trials, SIZES[size], device, low)
        with apart([Ours, Transformers, Book], folder, device, low) as contestants:
            return rows + answering(contestants, texts, trials)


def text_of(examples: Examples, row: int) -> Text:
    return int(examples.prompts[row]), examples.text(row).tolist()


def training(
    contestants: dict[str, Apart],
    texts: Sequence[Text],
    trials: Trials,
    shape: GPTConfig,
    device: str,
    low: bool,
) -> list[Row]:
    rows = trained(contestants, texts, trials, BATCH, shape, device, low)
    learners = {name: contestants[name] for name in ("Ours", "Transformers", "TRL")}
    flow = cycle(texts)
    masked = [
        train(learners, flow, trials.steps, BATCH, masked=True)[0] for _ in range(trials.rounds)
    ]
    return [*rows, row("training, the answers alone learned", by_name(masked))]


def on_gpu(
    contestants: dict[str, Apart],
    texts: Sequence[Text],
    trials: Trials,
    shape: GPTConfig,
    device: str,
    low: bool,
) -> list[Row]:
    """What only a GPU is fast enough for."""
    rows, prompts = (
        trained(contestants, texts, trials, LARGE, shape, device, low),
        [t[:n] for n, t in texts[:LARGE]],
    )
    together = answer(contestants, prompts, [NEW] * LARGE, LARGE, trials)
    rows.append(row(f"answering {LARGE} together, {NEW} tokens each", together))
    run = 2 * [texts[i : i + BATCH] for i in range(0, PUBLISHED, BATCH)]
    seconds = sum(contestants["Ours"].ask("train", run))
    return [
        *rows,
        (f"2 epochs of {PUBLISHED} records, batch {BATCH}", {"Ours": f"{seconds:.0f} s"}),
    ]


def trained(
    contestants: dict[str, Apart],
    texts: Sequence[Text],
    trials: Trials,
    batch: int,
    shape: GPTConfig,
    device: str,
    low: bool,
) -> list[Row]:
    """Training on the whole text: speed, losses, memory, and the time that the necessary work would take alone."""
    flow, tokens = cycle(texts), sum(len(tokens) - 1 for _, tokens in texts) / len(texts) * batch
    found, bounds = [], []
    for _ in range(trials.rounds):
        found.append(train(contestants, flow, trials.steps, batch))
        bounds.append(bound(shape, round(tokens), device, low))
        print("  a step's products {:.3f} s, AdamW {:.3f} s".format(*bounds[-1]), file=sys.stderr)
    rounds = by_name([rates for rates, _ in found])
    peaks = {
        name: f"{contestant.ask('peak') / 2**30:.1f} GiB"
        for name, contestant in contestants.items()
    }
    rows = [row(f"training, batch {batch}", rounds), ("its peak memory", peaks)]
    rows.append(
        (
            "a step's loss beside transformers', at most",
            {"Ours": f"{max(gap for _, gap in found):.3f} off"},
        )
    )
    for what, seconds in (
        ("products", [products for products, _ in bounds]),
        ("products and AdamW", [products + update for products, update in bounds]),
    ):
        shares = {
            name: statistics.median(
                rate * alone / tokens for rate, alone in zip(rates, seconds, strict=True)
            )
            for name, rates in rounds.items()
        }
        cells = {name: f"{share:.0%}" for name, share in shares.items()}
        rows.append((f"its share of what the {what} alone would allow", cells))
    return rows


def train(
    contestants: dict[str, Apart],
    flow: Iterator[Text],
    steps: int,
    batch: int,
    masked: bool = False,
) -> tuple[dict[str, float], float]:
    """A round: tokens a second, and how far a step's loss was from transformers' at most."""
    batches = [list(islice(flow, batch)) for _ in range(steps + 1)]
    tokens = sum(len(tokens) - 1 for few in batches[1:] for _, tokens in few)
    rates, losses = {}, {}
    for name, contestant in contestants.items():
        seconds = contestant.ask("train", batches, masked)
        rates[name], losses[name] = tokens / sum(seconds[1:]), contestant.ask("losses")
        print(
            f"  {name}: {rates[name]:,.1f} tokens/s, first loss {losses[name][0]:.3f}",
            file=sys.stderr,
        )
    gaps = [
        abs(ours - theirs)
        for ours, theirs in zip(losses["Ours"], losses["Transformers"], strict=True)
    ]
    if max(gaps) > 0.5:
        raise RuntimeError(f"the contestants do not compute the same: {losses}")
    return rates, max(gaps)


def by_name(rounds: list[dict[str, float]]) -> Rounds:
    return {name: [found[name] for found in rounds] for name in rounds[0]}


def answering(contestants: dict[str, Apart], texts: Sequence[Text], trials: Trials) -> list[Row]:
    """The texts' prompts: some one by one, some together with answers of one length, the last ones as they are."""
    cached = {
        name: contestants[name] for name in ("Ours", "Transformers")
    }  # the book's code has no cache
    prompts, lengths = [t[:n] for n, t in texts], [len(t) - n for n, t in texts]
    alone = answer(cached, prompts[: trials.alone], [NEW] * trials.alone, 1, trials)
    together = answer(cached, prompts[:TOGETHER], [NEW] * TOGETHER, TOGETHER, trials)
    less = f" (the book's code: {trials.book} of them, one by one)"
    real = answer(contestants, prompts[-trials.real :], lengths[-trials.real :], REAL, trials)
    return [
        row(f"answering one by one, {NEW} tokens each", alone),
        row(f"answering {TOGETHER} together, {NEW} tokens each", together),
        row(
            f"answering {trials.real} prompts, {REAL} together, each up to its expected length{less}",
            real,
        ),
    ]


def answer(
    contestants: dict[str, Apart],
    prompts: list[list[int]],
    lengths: list[int],
    together: int,
    trials: Trials,
) -> Rounds:
    found: Rounds = {name: [] for name in contestants}
    parts = {name: slice(-trials.book if name == "Book" else 0, None) for name in contestants}
    for name, contestant in contestants.items():
        few = prompts[parts[name]][:together]
        contestant.ask("answer", few, [2] * len(few), together)
    for _ in range(trials.rounds):
        for name, contestant in contestants.items():
            given = lengths[parts[name]]
            found[name].append(
                sum(given) / contestant.ask("answer", prompts[parts[name]], given, together)
            )
            print(f"  {name}: {found[name][-1]:,.1f} tokens/s", file=sys.stderr)
    return found


def row(what: str, rounds: Rounds) -> Row:
    cells = {}
    for name, found in rounds.items():
        ratio = statistics.median(
            ours / theirs for ours, theirs in zip(rounds["Ours"], found, strict=True)
        )
        rate = f"{statistics.median(found):,.{0 if min(found) > 10 else 1}f}"
        cells[name] = f"{rate} tokens/s" if name == "Ours" else f"{rate} ({ratio:.2f}×)"
    return what, cells


def bound(shape: GPTConfig, tokens: int, device: str, low: bool) -> tuple[float, float]:
    """Seconds that a training step's matrix products take, and AdamW's update, and nothing else of it."""
    keep_freed_memory()  # as training does
    C, dtype = shape.n_embd, torch.bfloat16 if low else torch.float32
    sizes = [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)] * shape.n_layer + [(C, shape.vocab_size)]
    work = []
    for width_in, width_out in sizes:
        x, y = torch.randn(tokens, width_in), torch.randn(tokens, width_out)
        work.append(
            [tensor.to(device, dtype) for tensor in (x, y, torch.randn(width_out, width_in))]
        )

    def products() -> None:
        for x, y, weight in work:
            linear(x, weight), y @ weight, y.t() @ x

    model = GPT(shape).to(device)
    optimizer = adamw(model, OptimConfig())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    return _seconds(products, device), _seconds(optimizer.step, device)


def _seconds(work: Callable[[], object], device: str) -> float:
    """The median of some tries."""
    tries = []
    for _ in range(7):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        tries.append(time.perf_counter() - start)
    return statistics.median(tries[2:])
