"""Runs that are killed, signalled and damaged again and again, and must end as one that was left alone: `make soak`.

Each round takes a number of ranks, writes a checkpoint at each step, has one fault after the other happen at random
moments, lets the run finish, and compares weights, optimizer, schedule and logged losses with those of an undisturbed
run, bit for bit. Beside it the files that are read are fuzzed (tests/test_fuzz.py).
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from sft.checkpoint.folder import save_pretrained
from sft.config.loading import from_dict
from sft.config.schema import TrainConfig
from sft.errors import InputError
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.tokenizer import load_tokenizer
from sft.training.checkpoints import _read, last, read_newest
from sft.training.resume import resumed_config
from tests import test_fuzz
from tests.conftest import train_bpe
from tests.training.processes import begin, end_all, finish
from tests.training.test_signals import check_the_same

ROOT = Path(__file__).parents[2]
RANKS = (1, 2, 4)
ONE, DAMAGE = "kill -9 of one rank", "kill -9, then a damaged byte where two checkpoints stand"
FAULTS = {"kill -9 of all ranks": signal.SIGKILL, ONE: signal.SIGKILL, DAMAGE: signal.SIGKILL}
FAULTS |= {"SIGTERM to some ranks": signal.SIGTERM, "SIGINT to some ranks": signal.SIGINT}
LIMIT, GRACE = (
    60,
    30,
)  # seconds in which all ranks must be gone, and in which a launcher lets the others go themselves


def tiny_config(place: Path) -> TrainConfig:
    """A random model of two layers, and 60 records."""
    tokenizer = load_tokenizer(train_bpe(place))
    torch.manual_seed(0)
    shape = GPTConfig(n_layer=2, n_head=2, n_embd=16, vocab_size=tokenizer.n_vocab, n_positions=128)
    save_pretrained(GPT(shape), place / "base", tokenizer)
    records = [
        {"instruction": f"Say {i}.", "output": "the chef cooks " * (1 + i * i % 5)}
        for i in range(60)
    ]
    (place / "records.json").write_text(json.dumps(records))
    values = {
        "model": {"checkpoint": str(place / "base"), "allow_untrained": True, "dropout": 0.1},
        "data": {
            "source": "json",
            "path": str(place / "records.json"),
            "prompt": "phi3",
            "split": [0.8, 0.1, 0.1],
        },
        "optim": {"lr": 1e-3},
        "eval": {"every": 0, "sample": False},
        "checkpoint": {"every": 1},
        "device": "cpu",
        "precision": "32",
        "batch_size": 1,
        "epochs": 2,
        "logger": "none",
    }
    return from_dict(TrainConfig, values)


def rows(folder: Path) -> int:
    path = folder / "metrics.csv"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def happen(fault: str, processes: list[BaseProcess], folder: Path, chance: random.Random) -> None:
    """The fault, and the end of all ranks after it."""
    number, chosen = FAULTS[fault], processes
    if fault == ONE or number != signal.SIGKILL:
        chosen = chance.sample(processes, 1 if fault == ONE else chance.randint(1, len(processes)))
    for process in chosen:
        with suppress(ProcessLookupError):  # one that has just come to its end
            os.kill(process.pid or 0, number)
    end = time.monotonic() + LIMIT
    if fault == ONE:  # gloo may let another wait for it for half an hour: that is for the launcher
        wait(processes, GRACE)
        for process in processes:
            process.kill()
    wait(processes, end - time.monotonic())
    assert all(process.exitcode is not None for process in processes), (
        f"{fault}: a rank is there after {LIMIT} seconds"
    )
    if fault == DAMAGE and both_are_whole(folder):
        data = bytearray(last(folder).read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        last(folder).write_bytes(data)


def wait(processes: list[BaseProcess], seconds: float) -> None:
    """For their end, or so long."""
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0, end - time.monotonic()))


def both_are_whole(folder: Path) -> bool:
    """A kill may leave one alone, and damage to that one too is more than is promised."""
    try:
        return all(_read(path) for path in (last(folder), last(folder).with_name("last-1.ckpt")))
    except InputError:
        return False


def torment(
    config: TrainConfig, folder: Path, ranks: int, chance: random.Random, done: Counter[str]
) -> int:
    """A run from its beginning to its end, with a fault every few steps.

    Returns:
        How often it went on from the checkpoint before the newest.
    """
    asked, seen, earlier = config, 1, 0
    while True:
        processes = begin(asked, folder, ranks)
        wanted = max(seen, rows(folder)) + chance.randrange(1, 8)
        end = time.monotonic() + LIMIT
        while rows(folder) < wanted and processes[0].exitcode is None:
            assert time.monotonic() < end, f"no step for {LIMIT} seconds"
            time.sleep(0.005)
        time.sleep(0.02 * chance.random())
        if any(process.exitcode is not None for process in processes):
            break
        fault = chance.choice(list(FAULTS))
        happen(fault, processes, folder, chance)
        done[fault] += 1
        seen = rows(folder)
        begun = any(last(folder).parent.glob("last*.ckpt"))
        asked = resumed_config(replace(config, resume=str(folder)), []) if begun else config
        earlier += begun and read_newest(folder)[0] != last(folder)
    for process in processes:
        process.join(LIMIT)
        assert process.exitcode == 0, process.exitcode
    return earlier


def fuzzed(tries: int) -> int:
    """How many files were tried, of each kind as many; raises if one was not read or refused as it should be."""
    command = [sys.executable, "-m", "pytest", "tests/test_fuzz.py", "-q"]
    subprocess.run(command, env={**os.environ, "SFT_FUZZ": str(tries)}, cwd=ROOT, check=True)
    return tries * sum(hasattr(found, "hypothesis") for found in vars(test_fuzz).values())


@contextmanager
def quiet(log: Path) -> Iterator[Callable[[str], None]]:
    """What the runs say goes into a file; the function given still speaks on the terminal."""
    with (
        log.open("w") as file,
        os.fdopen(os.dup(1), "w") as terminal,
        os.fdopen(os.dup(2), "w") as errors,
    ):
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield lambda text: print(text, file=terminal, flush=True)
        finally:
            os.dup2(terminal.fileno(), 1)
            os.dup2(errors.fileno(), 2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="of faults (%(default)s)")
    parser.add_argument(
        "--tries", type=int, default=2000, help="damaged files of each kind (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()))
    given = parser.parse_args()
    chance, done, runs, began = (
        random.Random(given.seed),
        Counter[str](),
        Counter[int](),
        time.monotonic(),
    )
    folder = place = Path(tempfile.mkdtemp(prefix="soak"))
    log, earlier = place / "log", 0
    os.chdir(place)
    with quiet(log) as say:
        say(f"seed {given.seed}, {given.minutes:g} minutes, in {place}")
        try:
            config = tiny_config(place)
            for ranks in RANKS:
                finish(config, place / f"whole{ranks}", ranks)
            while time.monotonic() - began < 60 * given.minutes:
                ranks = chance.choice(RANKS)
                folder = place / f"run{runs.total()}"
                earlier += torment(config, folder, ranks, chance, done)
                check_the_same(folder, place / f"whole{ranks}")
                runs[ranks] += 1
        except Exception:
            say(f"failed in round {runs.total()}, seed {given.seed}; see {log} and {folder}")
            raise
        finally:
            end_all()
    os.chdir(ROOT)
    shutil.rmtree(place)
    print(
        ", ".join(f"{count} runs on {ranks} processes" for ranks, count in sorted(runs.items())),
        end="; ",
    )
    print(
        f"begun again {done.total():,} times, {earlier:,} times from the checkpoint before the newest."
    )
    print(
        "All ended as the undisturbed run, bit for bit: a difference ends the soak.\n\n| fault | times |\n|---|---|"
    )
    for fault in FAULTS:
        print(f"| {fault} | {done[fault]:,} |", flush=True)
    print(
        f"\n{fuzzed(given.tries):,} damaged or arbitrary files were read, or refused in one line."
    )


if __name__ == "__main__":
    main()
