"""What this project takes beside transformers, TRL and the book's code, on this machine: `make bench`.

Training, answering, tokenising, starting, loading; one table, which is also written as Markdown. The machine should
have nothing else to do. The three are installed by `make bench`.
"""

import argparse
import os
import platform
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
import yaml

from sft.config.schema import DataConfig
from sft.data.sources import load_source
from sft.device import pick_device, pick_precision
from tests.benchmarks import data, start
from tests.benchmarks.speed import SIZES, Row, Trials, measure

FULL = Trials(rounds=5, steps=4, alone=3, real=110, book=3)
QUICK = Trials(rounds=3, steps=2, alone=2, real=48, book=2)
NAMES = {
    "Ours": "this project",
    "Transformers": "transformers",
    "TRL": "TRL",
    "Book": "the book's code",
}
INSTRUCTIONS = Path(__file__).parents[2] / "conf" / "data" / "instructions.yaml"


def machine(device: str) -> str:
    """The machine and the versions, in a line."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        cpu = next(
            (
                line.partition(": ")[2]
                for line in info.read_text().splitlines()
                if "model name" in line
            ),
            cpu,
        )
    chip = torch.cuda.get_device_name() if device == "cuda" else f"{cpu}, {os.cpu_count()} CPUs"
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "trl", "llms-from-scratch")
    )
    return f"{chip}; Python {platform.python_version()}, {packages}; {time.strftime('%Y-%m-%d')}"


def others(vocabulary: Path, records: int, size: str) -> list[Row]:
    """What there is no other project's number for."""
    with tempfile.TemporaryDirectory() as place:
        path, cache = Path(place) / "records.json", Path(place) / "cache"
        data.write_records(path, records)
        first, second = (
            data.in_own_process(partial(data.start, path, vocabulary, cache)) for _ in range(2)
        )
    loaded, saved = start.load(size, vocabulary), start.save("small")
    beside = f"{loaded.beside:.2f} times as long"
    return [
        (f"tokenising {records:,} records", {"Ours": f"{first.load:.1f} s"}),
        ("the same at the next start", {"Ours": f"{second.load:.2f} s"}),
        ("planning their epoch", {"Ours": f"{second.plan:.2f} s"}),
        (
            "from the command to the first step of gpt2-nano",
            {"Ours": f"{start.first_step():.1f} s"},
        ),
        (f"loading gpt2-{size}, {loaded.size / 1e9:.1f} GB", {"Ours": f"{loaded.seconds:.1f} s"}),
        *(
            [("the same beside reading its file into memory", {"Ours": beside})]
            if start.CAN_FORGET
            else []
        ),
        ("its peak memory beside its file", {"Ours": f"{loaded.peak / loaded.size:.2f}×"}),
        (
            f"writing a checkpoint of gpt2-small, {saved.size / 1e9:.1f} GB",
            {"Ours": f"{saved.seconds:.1f} s"},
        ),
        (
            "the same beside writing its bytes to the disk",
            {"Ours": f"{saved.beside:.2f} times as long"},
        ),
    ]


def table(rows: list[Row]) -> str:
    lines = ["| | " + " | ".join(NAMES.values()) + " |", "|---|" + "---|" * len(NAMES)]
    lines += [
        f"| {what} | " + " | ".join(cells.get(name, "") for name in NAMES) + " |"
        for what, cells in rows
    ]
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
    parser.add_argument("--records", help="JSON file; else the 1,100 instructions, downloaded")
    parser.add_argument(
        "--vocabulary",
        type=Path,
        help="folder of vocab.json and merges.txt; else GPT-2's, by the hub",
    )
    parser.add_argument("--out", type=Path, default=Path("build/bench.md"), help="(%(default)s)")
    args = parser.parse_args()
    vocabulary = args.vocabulary or data.fetched_vocabulary()
    url = yaml.safe_load(INSTRUCTIONS.read_text())["url"]
    given = (
        DataConfig(source="json", path=args.records)
        if args.records
        else DataConfig("instructions", url=url)
    )
    device = pick_device("auto")
    low = pick_precision("auto", device) == "bf16-mixed"
    trials = QUICK if args.quick else FULL
    trials = trials._replace(rounds=args.rounds or trials.rounds)
    shape = f"gpt2-{args.size}'s shape, {'bf16' if low else 'fp32'} (the book's code: fp32)"
    rows = measure(args.size, load_source(given), vocabulary, device, low, trials)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    for part in (list, partial(others, vocabulary, 52_000, "medium" if args.quick else "xl")):
        rows += (
            part()
        )  # what others do not have comes last, and what was measured before is written by then
        args.out.write_text(f"{table(rows)}\n\n{shape}. {machine(device)}.\n", encoding="utf-8")
    print(args.out.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
