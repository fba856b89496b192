"""This project measured against transformers, TRL and the book's code, on this machine.

`make bench` installs the three and runs this file on a machine that should have nothing else to do.
Training, answering, tokenising, starting and loading fill one table, which is written as Markdown.
"""

import argparse
import os
import platform
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import get_args

import torch
import yaml

from sft.config.schema import DataConfig, PrecisionName
from sft.data.sources import load_source
from sft.device import pick_answer_precision, pick_device, pick_precision
from tests.benchmarks import busy, data, quiet, start
from tests.benchmarks.contestants import has_llama_cpp
from tests.benchmarks.speed import SIZES, Low, Row, Trials, measure, processor

FULL = Trials(rounds=5, steps=4, alone=3, real=110, book=3)
QUICK = Trials(rounds=3, steps=2, alone=2, real=48, book=2)
NAMES = {
    "Ours": "this project",
    "Transformers": "transformers",
    "TRL": "TRL",
    "Book": "the book's code",
    "LlamaCpp": "llama.cpp, f16",
    "Int8": "this project, int8",
}
INSTRUCTIONS = Path(__file__).parents[2] / "conf" / "data" / "instructions.yaml"


def machine(device: str) -> str:
    """Return one line that names the machine and the versions."""
    cpu = f"{processor()}, {os.cpu_count()} CPUs"
    chip = torch.cuda.get_device_name() if device == "cuda" else cpu
    names = ["torch", "transformers", "trl", "llms-from-scratch"]
    if has_llama_cpp():
        names.append("llama-cpp-python")
    packages = ", ".join(f"{name} {version(name)}" for name in names)
    return f"{chip}; Python {platform.python_version()}, {packages}; {time.strftime('%Y-%m-%d')}"


def alone(vocabulary: Path, records: int, size: str) -> list[Row]:
    """Return the rows in which only this project is measured."""
    rows: list[Row] = []

    def add(what: str, found: str) -> None:
        rows.append((what, {"Ours": found}))

    # The first start finds the cache empty, the second finds it filled.
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "records.json"
        data.write_records(path, records)
        begin = partial(data.start, path, vocabulary, Path(place) / "cache")
        first = data.in_own_process(begin)
        second = data.in_own_process(begin)
    add(f"tokenising {records:,} records", f"{first.load:.1f} s")
    add("the same at the next start", f"{second.load:.2f} s")
    add("planning their epoch", f"{second.plan:.2f} s")
    add("from the command to the first step of gpt2-nano", f"{start.first_step():.1f} s")
    nano = busy.nano()
    what = f"training gpt2-nano by train.py, beside {nano.busy} busy processes"
    add(what, f"{nano.beside:,.0f} tokens/s")
    add("the same beside its fair share", f"{nano.share:.0%}")

    loaded = start.load(size, vocabulary)
    add(f"loading gpt2-{size}, {loaded.size / 1e9:.1f} GB", f"{loaded.seconds:.1f} s")
    if start.CAN_FORGET:
        add("the same beside reading its file into memory", times_as_long(loaded.beside))
    add("its peak memory beside its file", f"{loaded.peak / loaded.size:.2f}×")

    saved = start.save("small")
    size_of_saved = f"{saved.size / 1e9:.1f} GB"
    add(f"writing a checkpoint of gpt2-small, {size_of_saved}", f"{saved.seconds:.1f} s")
    add("the same beside writing its bytes to the disk", times_as_long(saved.beside))
    return rows


def times_as_long(ratio: float) -> str:
    return f"{ratio:.2f} times as long"


def table(rows: list[Row]) -> str:
    """Return the rows as Markdown, with a column for each contestant that was measured."""
    names = [name for name in NAMES if any(name in cells for _, cells in rows)]
    lines = ["| | " + " | ".join(NAMES[name] for name in names) + " |"]
    lines.append("|---|" + "---|" * len(names))
    for what, cells in rows:
        lines.append(f"| {what} | " + " | ".join(cells.get(name, "") for name in names) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--size", choices=SIZES, default="small", help="shape, with random weights (%(default)s)"
    )
    parser.add_argument("--rounds", type=int, help=f"({FULL.rounds}; --quick: {QUICK.rounds})")
    parser.add_argument(
        "--quick", action="store_true", help="fewer rounds, for five minutes on two cores"
    )
    parser.add_argument(
        "--precision",
        choices=get_args(PrecisionName),
        default="auto",
        help="of training; answering takes bf16 where there is hardware for it (%(default)s)",
    )
    parser.add_argument("--records", help="JSON file; else the 1,100 instructions, downloaded")
    parser.add_argument(
        "--vocabulary",
        type=Path,
        help="folder of vocab.json and merges.txt; else GPT-2's, by the hub",
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench.md"), help="(%(default)s)")
    args = parser.parse_args()

    # The data.
    vocabulary = args.vocabulary or data.fetched_vocabulary()
    if args.records:
        given = DataConfig("json", path=args.records)
    else:
        given = DataConfig("instructions", url=yaml.safe_load(INSTRUCTIONS.read_text())["url"])

    # The contestants.
    device = pick_device("auto")
    training = pick_precision(args.precision, device)
    answering = pick_answer_precision("auto", device)
    low = Low(training=training == "bf16-mixed", answering=answering == "bf16-mixed")
    trials = QUICK if args.quick else FULL
    trials = trials._replace(rounds=args.rounds or trials.rounds)
    before = quiet.Reading.now()
    disturbed = quiet.watched()
    precisions = f"Training: {training}; answering: {answering}; the book's code: fp32"
    shape = f"gpt2-{args.size}'s shape. {precisions}"
    rows = measure(args.size, load_source(given), vocabulary, device, low, trials)
    disturbed = disturbed or quiet.disturbances(before, quiet.Reading.now())

    # This project alone takes another while, so what was measured is written before it.
    args.out.parent.mkdir(parents=True, exist_ok=True)
    below = f"{shape}. {machine(device)}. {quiet.verdict(disturbed)}"
    args.out.write_text(f"{table(rows)}\n\n{below}\n", encoding="utf-8")
    rows += alone(vocabulary, 52_000, "medium" if args.quick else "xl")
    args.out.write_text(f"{table(rows)}\n\n{below}\n", encoding="utf-8")
    print(args.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
