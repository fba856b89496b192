"""Training and answering, this project and the others: the same weights, records and order.

In each round all are measured one after the other, so a machine whose speed drifts slows them all.
A ratio is the median over the rounds. Tokens are those of the records; padding does not count.
"""

import platform
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import NamedTuple

import torch

from sft.checkpoint.folder import save_pretrained
from sft.data.batches import Examples, encode
from sft.data.plan import Plan
from sft.data.sources import Source
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.tokenizer import load_tokenizer
from sft.prompts import PROMPTS
from tests.benchmarks.busy import COUNT, busy_processes
from tests.benchmarks.ceilings import AnsweringBound, answering_bound, training_bound
from tests.benchmarks.contestants import (
    TRL,
    Apart,
    Book,
    Int8,
    LlamaCpp,
    Ours,
    Text,
    Transformers,
    apart,
    has_llama_cpp,
)

SIZES = {
    "nano": GPTConfig(n_layer=4, n_head=4, n_embd=256),
    "small": GPTConfig(n_layer=12, n_head=12, n_embd=768),
    "medium": GPTConfig(n_layer=24, n_head=16, n_embd=1024),
    "large": GPTConfig(n_layer=36, n_head=20, n_embd=1280),
    "xl": GPTConfig(n_layer=48, n_head=25, n_embd=1600),
}
# Records of a training batch; and on a GPU also the larger one, which is as many prompts too.
BATCH = 8
LARGE = 64
# Prompts that are answered together, and the tokens of each answer.
TOGETHER = 16
NEW = 64
# Prompts together where the answers have their expected lengths.
REAL = 32
# The published run trained on so many records, twice.
PUBLISHED = 935

# For each contestant, the tokens a second in each round.
Rounds = dict[str, list[float]]
# The name of a measurement, and a cell for each contestant.
Row = tuple[str, dict[str, str]]


class Trials(NamedTuple):
    """How much is measured.

    Attributes:
        steps: optimizer steps of a round, after one that is not counted.
        alone: prompts that are answered one by one.
        real: records that are answered up to the length of their expected answers.
        book: of those, the last, which the book's code is given. Its answers take minutes.
    """

    rounds: int
    steps: int
    alone: int
    real: int
    book: int


class Low(NamedTuple):
    """Whether the contestants multiply in bf16."""

    training: bool
    answering: bool


def measure(
    size: str, source: Source, vocabulary: Path, device: str, low: Low, trials: Trials
) -> list[Row]:
    """Return the rows of the table. The numbers of each round go to stderr."""
    tokenizer = load_tokenizer(vocabulary)
    examples = encode(source.records, PROMPTS["alpaca"], tokenizer, 1024, mask_prompt=False)
    order = Plan(len(examples), BATCH, shuffle=True, seed=123).order(0)
    texts = [text_of(examples, int(row)) for row in order]
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        save_pretrained(GPT(SIZES[size]), folder, tokenizer)
        with apart([Ours, Transformers, TRL, Book], folder, device, low.training) as contestants:
            rows = training(contestants, texts, trials, SIZES[size], device, low.training)
        if device == "cpu":
            rows += beside_busy(folder, texts, trials, low.training)
        if device == "cuda":
            with apart([Ours, Transformers], folder, device, low.training) as contestants:
                rows += on_gpu(contestants, texts, trials, SIZES[size], device, low.training)
        kinds = [Ours, Transformers, Book]
        if device == "cpu":
            kinds += [Int8, LlamaCpp] if has_llama_cpp() else [Int8]
        with apart(kinds, folder, device, low.answering) as contestants:
            return rows + answering(contestants, texts, trials, SIZES[size], device, low.answering)


def processor() -> str:
    """Return the name of this machine's processor."""
    # On Linux the line `model name` is more precise. On ARM there is no such line.
    info = Path("/proc/cpuinfo")
    if info.exists() and (names := re.findall(r"model name\s*: (.*)", info.read_text())):
        return str(names[0])
    return platform.processor() or platform.machine()


def text_of(examples: Examples, row: int) -> Text:
    """Return a row as the contestants are given it."""
    return int(examples.prompts[row]), examples.text(row).tolist()


def training(
    contestants: dict[str, Apart],
    texts: Sequence[Text],
    trials: Trials,
    shape: GPTConfig,
    device: str,
    low: bool,
) -> list[Row]:
    """Measure training, on the whole text and on the answers alone."""
    rows = trained(contestants, texts, trials, BATCH, shape, device, low)

    # The book's code cannot mask the prompt.
    learners = {name: contestants[name] for name in ("Ours", "Transformers", "TRL")}
    flow = cycle(texts)
    masked = []
    for _ in range(trials.rounds):
        rates, _ = train(learners, flow, trials.steps, BATCH, masked=True)
        masked.append(rates)
    return [*rows, row("training, the answers alone learned", by_name(masked))]


def beside_busy(folder: Path, texts: Sequence[Text], trials: Trials, low: bool) -> list[Row]:
    """Measure training on a CPU that others keep busy, from before the contestants start."""
    flow = cycle(texts)
    with busy_processes(), apart([Ours, Transformers], folder, "cpu", low) as contestants:
        rates = [train(contestants, flow, trials.steps, BATCH)[0] for _ in range(trials.rounds)]
    what = f"training, batch {BATCH}, beside {COUNT} busy processes"
    return [row(what, by_name(rates))]


def on_gpu(
    contestants: dict[str, Apart],
    texts: Sequence[Text],
    trials: Trials,
    shape: GPTConfig,
    device: str,
    low: bool,
) -> list[Row]:
    """Measure what only a GPU is fast enough for."""
    rows = trained(contestants, texts, trials, LARGE, shape, device, low)

    prompts = [tokens[:prompt] for prompt, tokens in texts[:LARGE]]
    together, _ = answer(contestants, prompts, [NEW] * LARGE, LARGE, trials)
    rows.append(row(f"answering {LARGE} together, {NEW} tokens each", together))

    # The published run goes through its records twice.
    run = 2 * [texts[i : i + BATCH] for i in range(0, PUBLISHED, BATCH)]
    seconds = sum(contestants["Ours"].ask("train", run))
    rows.append((f"2 epochs of {PUBLISHED} records, batch {BATCH}", {"Ours": f"{seconds:.0f} s"}))
    return rows


def trained(
    contestants: dict[str, Apart],
    texts: Sequence[Text],
    trials: Trials,
    batch: int,
    shape: GPTConfig,
    device: str,
    low: bool,
) -> list[Row]:
    """Measure training on the whole text: speed, memory, losses, and the share of necessary work.

    A share is the time of the necessary work alone, divided by the time of the contestant's step.
    """
    # The mean tokens of a batch.
    tokens = sum(len(tokens) - 1 for _, tokens in texts) / len(texts) * batch

    flow = cycle(texts)
    rates = []
    gaps = []
    products = []
    products_and_update = []
    for _ in range(trials.rounds):
        found, gap = train(contestants, flow, trials.steps, batch)
        rates.append(found)
        gaps.append(gap)
        multiplying, updating = training_bound(shape, round(tokens), device, low)
        products.append(multiplying)
        products_and_update.append(multiplying + updating)
        line = f"  a step's products {multiplying:.3f} s, AdamW {updating:.3f} s"
        print(line, file=sys.stderr)
    rounds = by_name(rates)

    peaks = {}
    for name, contestant in contestants.items():
        peaks[name] = f"{contestant.ask('peak') / 2**30:.1f} GiB"
    rows = [
        row(f"training, batch {batch}", rounds),
        ("its peak memory", peaks),
        ("a step's loss beside transformers', at most", {"Ours": f"{max(gaps):.3f} off"}),
    ]

    bounds = {"products": products, "products and AdamW": products_and_update}
    for what, seconds in bounds.items():
        found_shares = shares(rounds, [tokens / alone for alone in seconds])
        rows.append((f"its share of what the {what} alone would allow", found_shares))
    return rows


def train(
    contestants: dict[str, Apart],
    flow: Iterator[Text],
    steps: int,
    batch: int,
    masked: bool = False,
) -> tuple[dict[str, float], float]:
    """Train for a round.

    Returns:
        The tokens a second of each contestant, and how far a step's loss was from transformers' at
        most.

    Raises:
        RuntimeError: so far that the contestants cannot be computing the same.
    """
    # The first step is not counted.
    batches = [list(islice(flow, batch)) for _ in range(steps + 1)]
    tokens = sum(len(tokens) - 1 for few in batches[1:] for _, tokens in few)
    rates = {}
    losses = {}
    for name, contestant in contestants.items():
        seconds = contestant.ask("train", batches, masked)
        rates[name] = tokens / sum(seconds[1:])
        losses[name] = contestant.ask("losses")
        line = f"  {name}: {rates[name]:,.1f} tokens/s, first loss {losses[name][0]:.3f}"
        print(line, file=sys.stderr)

    pairs = zip(losses["Ours"], losses["Transformers"], strict=True)
    gaps = [abs(ours - theirs) for ours, theirs in pairs]
    if max(gaps) > 0.5:
        raise RuntimeError(f"the contestants do not compute the same: {losses}")
    return rates, max(gaps)


def by_name(rounds: list[dict[str, float]]) -> Rounds:
    """Turn a list with a dict for each round into a dict with a list for each contestant."""
    return {name: [found[name] for found in rounds] for name in rounds[0]}


def answering(
    contestants: dict[str, Apart],
    texts: Sequence[Text],
    trials: Trials,
    shape: GPTConfig,
    device: str,
    low: bool,
) -> list[Row]:
    """Measure answering: one by one, together at one length, and together at expected lengths."""
    prompts = [tokens[:prompt] for prompt, tokens in texts]
    lengths = [len(tokens) - prompt for prompt, tokens in texts]

    # The book's code has no cache, so it is left out of the first two. llama.cpp is measured
    # through its Python package, which answers one by one.
    cached = {name: contestants[name] for name in ("Ours", "Transformers")}
    all_cached = {name: one for name, one in contestants.items() if name != "Book"}
    ceiling = partial(answering_bound, shape, (1, TOGETHER), device, low)
    alone, bounds = answer(
        all_cached, prompts[: trials.alone], [NEW] * trials.alone, 1, trials, ceiling
    )
    together, bounds_together = answer(
        cached, prompts[:TOGETHER], [NEW] * TOGETHER, TOGETHER, trials, ceiling
    )
    read = {name: contestants[name] for name in ("Ours", "Transformers", "Book")}
    real, _ = answer(read, prompts[-trials.real :], lengths[-trials.real :], REAL, trials)

    of_real = f"answering {trials.real} prompts, {REAL} together, each up to its expected length"
    of_book = f"(the book's code: {trials.book} of them, one by one)"
    return [
        row(f"answering one by one, {NEW} tokens each", alone),
        ("its share of what reading the weights alone would allow (MBU)", mbu(alone, bounds)),
        row(f"answering {TOGETHER} together, {NEW} tokens each", together),
        (
            "its share of what memory and products alone would allow",
            shares(together, [bound.rate(TOGETHER) for bound in bounds_together]),
        ),
        row(f"{of_real} {of_book}", real),
    ]


def answer(
    contestants: dict[str, Apart],
    prompts: list[list[int]],
    lengths: list[int],
    together: int,
    trials: Trials,
    ceiling: Callable[[], AnsweringBound] | None = None,
) -> tuple[Rounds, list[AnsweringBound]]:
    """Return the tokens a second of each contestant's answers, and the ceiling of each round.

    Args:
        lengths: the number of tokens of each answer.
        together: the most prompts at a time.
    """
    parts = {name: slice(-trials.book if name == "Book" else 0, None) for name in contestants}

    # The first answers pay for what is set up once. They are short, and not counted.
    for name, contestant in contestants.items():
        few = prompts[parts[name]][:together]
        contestant.ask("answer", few, [2] * len(few), together)

    found: Rounds = {name: [] for name in contestants}
    bounds = []
    for _ in range(trials.rounds):
        if ceiling is not None:
            bounds.append(ceiling())
        for name, contestant in contestants.items():
            given = lengths[parts[name]]
            seconds = contestant.ask("answer", prompts[parts[name]], given, together)
            found[name].append(sum(given) / seconds)
            print(f"  {name}: {found[name][-1]:,.1f} tokens/s", file=sys.stderr)
    return found, bounds


def mbu(rounds: Rounds, bounds: list[AnsweringBound]) -> dict[str, str]:
    """Return the share of memory's speed at which each contestant read its weights.

    That is the model bandwidth utilisation. The bytes are those of the weights in bf16, so int8,
    which has half of them, is left out.
    """
    read = {name: speeds for name, speeds in rounds.items() if name != "Int8"}
    return shares(read, [1 / bound.reading for bound in bounds])


def shares(rounds: Rounds, most: list[float]) -> dict[str, str]:
    """Return the share of the most that is possible; the median over the rounds."""
    found = {}
    for name, speeds in rounds.items():
        share = statistics.median(one / top for one, top in zip(speeds, most, strict=True))
        found[name] = f"{share:.0%}"
    return found


def row(what: str, rounds: Rounds) -> Row:
    """Return a row of median speeds, each with how many times as fast this project is."""
    cells = {}
    for name, found in rounds.items():
        pairs = zip(rounds["Ours"], found, strict=True)
        ratio = statistics.median(ours / theirs for ours, theirs in pairs)
        rate = f"{statistics.median(found):,.{0 if min(found) > 10 else 1}f}"
        cells[name] = f"{rate} tokens/s" if name == "Ours" else f"{rate} ({ratio:.2f}×)"
    return what, cells
