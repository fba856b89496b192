"""Runs that are killed, signalled and damaged must end as an undisturbed run does: `make soak`.

Each round takes a number of ranks and writes a checkpoint at each step. Faults come at random
moments, one after the other, until the run finishes. Then its weights, optimizer, schedule and
logged losses are compared with those of an undisturbed run, bit for bit. Afterwards the readers of
files are fuzzed (tests/test_fuzz.py).
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

KILL_ONE = "kill -9 of one rank"
DAMAGE = "kill -9, then a damaged byte where two checkpoints stand"
FAULTS = {
    "kill -9 of all ranks": signal.SIGKILL,
    KILL_ONE: signal.SIGKILL,
    DAMAGE: signal.SIGKILL,
    "SIGTERM to some ranks": signal.SIGTERM,
    "SIGINT to some ranks": signal.SIGINT,
}

# The most seconds until all ranks have ended, and until a launcher kills those that wait for one
# that was killed.
LIMIT = 60
GRACE = 30


def tiny_config(place: Path) -> TrainConfig:
    """Write a random model of two layers and 60 records; return a config that trains on them."""
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
    """Return the number of lines in metrics.csv, by which the progress of a run is seen."""
    path = folder / "metrics.csv"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def cause(fault: str, processes: list[BaseProcess], folder: Path, chance: random.Random) -> None:
    """Cause a fault, and wait for the end of all ranks."""
    number = FAULTS[fault]
    chosen = processes
    if fault == KILL_ONE:
        chosen = chance.sample(processes, 1)
    elif number != signal.SIGKILL:
        chosen = chance.sample(processes, chance.randint(1, len(processes)))
    for process in chosen:
        # It may have ended just now.
        with suppress(ProcessLookupError):
            os.kill(process.pid or 0, number)

    # With gloo the others may wait for a killed rank for half an hour. A launcher ends them.
    end = time.monotonic() + LIMIT
    if fault == KILL_ONE:
        wait(processes, GRACE)
        for process in processes:
            process.kill()
    wait(processes, end - time.monotonic())
    alive = [process.pid for process in processes if process.exitcode is None]
    assert not alive, f"{fault}: {len(alive)} ranks are alive after {LIMIT} seconds"

    if fault == DAMAGE and both_are_whole(folder):
        data = bytearray(last(folder).read_bytes())
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        last(folder).write_bytes(data)


def wait(processes: list[BaseProcess], seconds: float) -> None:
    """Wait until the processes end, but no longer than so many seconds."""
    end = time.monotonic() + seconds
    for process in processes:
        process.join(max(0, end - time.monotonic()))


def both_are_whole(folder: Path) -> bool:
    """Whether both checkpoints can be read.

    A kill may leave only one. Damage to that one too is more than is promised to be survived.
    """
    try:
        return all(_read(path) for path in (last(folder), last(folder).with_name("last-1.ckpt")))
    except InputError:
        return False


def torment(
    config: TrainConfig, folder: Path, ranks: int, chance: random.Random, done: Counter[str]
) -> int:
    """Run from the beginning to the end, with a fault every few steps.

    Returns:
        How often it went on from the checkpoint before the newest.
    """
    current = config
    seen = 1
    earlier = 0
    while True:
        processes = begin(current, folder, ranks)

        # Wait for a few more steps, and then for a part of one.
        wanted = max(seen, rows(folder)) + chance.randrange(1, 8)
        end = time.monotonic() + LIMIT
        while rows(folder) < wanted and processes[0].exitcode is None:
            assert time.monotonic() < end, f"no step for {LIMIT} seconds"
            time.sleep(0.005)
        time.sleep(0.02 * chance.random())
        if any(process.exitcode is not None for process in processes):
            break

        fault = chance.choice(list(FAULTS))
        cause(fault, processes, folder, chance)
        done[fault] += 1
        seen = rows(folder)

        # The next start resumes, if there is a checkpoint to resume from.
        current = config
        if any(last(folder).parent.glob("last*.ckpt")):
            current = resumed_config(replace(config, resume=str(folder)), [])
            earlier += read_newest(folder)[0] != last(folder)
    for process in processes:
        process.join(LIMIT)
        assert process.exitcode == 0, process.exitcode
    return earlier


def fuzzed(tries: int) -> int:
    """Fuzz the readers of files, so many tries for each kind of file; return the tries of all.

    Raises:
        CalledProcessError: a file was neither read nor refused in one line.
    """
    command = [sys.executable, "-m", "pytest", "tests/test_fuzz.py", "-q"]
    subprocess.run(command, env={**os.environ, "SFT_FUZZ": str(tries)}, cwd=ROOT, check=True)
    return tries * sum(hasattr(found, "hypothesis") for found in vars(test_fuzz).values())


@contextmanager
def quiet(log: Path) -> Iterator[Callable[[str], None]]:
    """Send the output of the runs into a file; yield a function that prints on the terminal."""
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

    chance = random.Random(given.seed)
    done = Counter[str]()
    runs = Counter[int]()
    earlier = 0
    began = time.monotonic()
    place = Path(tempfile.mkdtemp(prefix="soak"))
    folder = place
    log = place / "log"
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

    counts = ", ".join(
        f"{count} runs on {ranks} processes" for ranks, count in sorted(runs.items())
    )
    print(f"{counts}; started again {done.total():,} times,")
    print(f"of these {earlier:,} times from the checkpoint before the newest.")
    print("Every run ended as the undisturbed one, bit for bit: a difference ends the soak.")
    print()
    print("| fault | times |")
    print("|---|---|")
    for fault in FAULTS:
        print(f"| {fault} | {done[fault]:,} |", flush=True)
    print()
    tried = fuzzed(given.tries)
    print(f"{tried:,} damaged or arbitrary files were read, or refused in one line.")


if __name__ == "__main__":
    main()
