"""Costs of the data: the time to tokenise it, to start again and to plan an epoch; its memory.

    python -m tests.benchmarks.data --records 52000 1000000

A million records take a few minutes and 1.5 GB of disk. The records are made up, as long as
Alpaca's: about 65 tokens of question and 65 of answer, under the Alpaca prompt. Each line of the
table is a process of its own. The first start finds the cache empty, the second finds it filled.
Seconds are CPU time, since each process waits long for a CPU on a busy machine. Memory is the peak
of the process above its peak before the data, mapped pages included.
"""

import argparse
import json
import os
import platform
import random
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace

from sft.checkpoint import hub
from sft.command import command
from sft.config.schema import DataConfig
from sft.data.datamodule import PlannedBatches
from sft.data.overview import overview
from sft.data.plan import Plan
from sft.data.sources import load_source
from sft.data.splits import load_splits, part_rows
from sft.gpt2.tokenizer import load_tokenizer
from sft.prompts import PROMPTS

GPT2 = "openai-community/gpt2"
MIB = 1 << 20
COLUMNS = (
    "",
    "tokens",
    "load, s",
    "tokens/s",
    "plan an epoch, s",
    "2,000 batches of 8, s",
    "memory, MiB",
    "on disk, MiB",
)


def write_records(path: Path, count: int) -> None:
    """Write a JSON array of records, in the words of the embedded ones."""
    draw = random.Random(0)
    words = " ".join(record.output for record in load_source(DataConfig()).records).split()

    def text(low: float, high: float) -> str:
        return " ".join(draw.choices(words, k=round(draw.uniform(low, high) ** 2)))

    def record(number: int) -> dict[str, str]:
        given = text(3, 7) if draw.random() < 0.4 else ""
        return {"instruction": f"{number} {text(4, 8)}", "input": given, "output": text(1, 11)}

    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            file.write(("," if number else "[") + json.dumps(record(number)) + "\n")
        file.write("]")


def peak() -> int:
    """Return the most bytes that this process has held."""
    # The number of getrusage(2) includes what the parent held before this process began.
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return rusage_bytes(resource.RUSAGE_SELF)


def rusage_bytes(who: int) -> int:
    """Return the peak that getrusage(2) knows. macOS gives it in bytes, others in KiB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(who).ru_maxrss * unit


def start(path: Path, vocabulary: Path, cache: Path) -> SimpleNamespace:
    """Do what train.py does with the data.

    Returns:
        The CPU seconds of each part, the tokens, and the bytes above what was held before.
    """
    os.environ["SFT_CACHE"] = str(cache)
    tokenizer = load_tokenizer(vocabulary)
    before = peak()

    # Load: read, tokenise, count.
    clock = [time.process_time()]
    config = DataConfig(source="json", path=str(path))
    source = load_source(config)
    parts = part_rows(source, config)
    splits = load_splits(source, parts, PROMPTS["alpaca"], tokenizer, None, 1024, mask_prompt=False)
    numbers = overview(splits)
    clock.append(time.process_time())

    # Plan an epoch.
    examples = splits["train"].examples
    plan = Plan(len(examples), 8, shuffle=True, lengths=examples.lengths()).micro_batches(0, 0)
    clock.append(time.process_time())

    # Make its first batches.
    batches = PlannedBatches(examples, plan)
    for i in range(min(2000, len(plan))):
        batches[i]
    clock.append(time.process_time())

    load, planned, made = (end - begin for begin, end in pairwise(clock))
    return SimpleNamespace(
        tokens=sum(row["tokens"] for row in numbers.values()),
        load=load,
        plan=planned,
        batches=made,
        memory=peak() - before,
    )


def fetched_vocabulary() -> Path:
    """Fetch GPT-2's vocab.json and merges.txt from the hub, and return their folder."""
    commit = hub.PINNED[GPT2]
    hub.fetch(GPT2, hub.MERGES, commit)
    return hub.fetch(GPT2, hub.VOCAB, commit).parent


def in_own_process(work: partial[SimpleNamespace]) -> SimpleNamespace:
    """Return what the call returns in a new process, whose peak memory is its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        return process.submit(work).result()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--records", type=int, nargs="+", default=[52_000], help="how many (default: %(default)s)"
    )
    parser.add_argument(
        "--vocabulary",
        type=Path,
        help="folder of vocab.json and merges.txt; else GPT-2's, by the hub",
    )
    args = parser.parse_args()
    vocabulary = args.vocabulary or fetched_vocabulary()
    chip = platform.processor() or platform.machine()
    print(f"{chip}, {os.cpu_count()} CPUs, {time.strftime('%Y-%m-%d')}\n")
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    for count in args.records:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "records.json"
            cache = Path(folder) / "cache"
            print(f"writing {count:,} records", file=sys.stderr)
            write_records(path, count)
            for name in ("first", "second"):
                found = in_own_process(partial(start, path, vocabulary, cache))
                disk = sum(file.stat().st_size for file in cache.rglob("*.safetensors"))
                cells = (
                    f"{count:,} records, {name} start",
                    f"{found.tokens:,}",
                    f"{found.load:.2f}",
                    f"{found.tokens / found.load:,.0f}",
                    f"{found.plan:.2f}",
                    f"{found.batches:.2f}",
                    f"{found.memory / MIB:,.0f}",
                    f"{disk / MIB:,.0f}",
                )
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    command(main)
