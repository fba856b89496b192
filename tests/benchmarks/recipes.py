"""Measure each switch of training and of decoding over several seeds, and write the log.

    python -m tests.benchmarks.recipes --model gpt2-nano --seeds 5

`make recipes MODEL=gpt2-nano` does the same. Runs, answers and numbers stay in `--out`, so that the
same command continues where it stopped. `--only NAME,NAME` measures some of the recipes; `--table`
measures nothing and writes the table of what is there into docs/recipes.md.

Each recipe is trained from every seed and answers the records of `--split`. A recipe of decoding is
measured on the runs of `plain`. The intervals are over seeds and records, and a difference is
paired by the seed.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sft.scoring.seeds import group_difference, group_mean, holm

ROOT = Path(__file__).parents[2]
LOG = ROOT / "docs" / "recipes.md"
MARKS = ("<!-- measured: {model} -->", "<!-- end of {model} -->")


@dataclass(frozen=True)
class Recipe:
    """A switch that is measured.

    Attributes:
        settings: of train.py, or of evaluate.py for a recipe of decoding.
        source: where it comes from.
    """

    settings: tuple[str, ...]
    source: str = ""


WEIGHT = "data.mask_prompt=false"
TRAINING = {
    "plain": Recipe(()),
    "prompt_weight=0.1": Recipe((WEIGHT, "data.prompt_weight=0.1"), "2405.14394"),
    "prompt_weight=0.5": Recipe((WEIGHT, "data.prompt_weight=0.5"), "2405.14394"),
    "prompt_weight=1": Recipe((WEIGHT,), "the book"),
    "ema=0.99": Recipe(("optim.ema=0.99",), "2508.00180"),
    "ema=0.95": Recipe(("optim.ema=0.95",), "2508.00180"),
    "neftune=5": Recipe(("optim.neftune=5",), "2310.05914"),
    "cosine, warmup=0.1": Recipe(("optim.schedule=cosine", "optim.warmup=0.1")),
    "linear, warmup=0.1": Recipe(("optim.schedule=linear", "optim.warmup=0.1")),
    "wsd, warmup=0.1": Recipe(("optim.schedule=wsd", "optim.warmup=0.1"), "2404.06395"),
    "beta2_half_life=1e5": Recipe(("optim.beta2_half_life=1e5",), "2507.07101"),
    "beta2_half_life=1e4": Recipe(("optim.beta2_half_life=1e4",), "2507.07101"),
    "cosine, warmup=0.1, min_lr=1e-5": Recipe(
        ("optim.schedule=cosine", "optim.warmup=0.1", "optim.min_lr=1e-5")
    ),
    "lr x 0.5": Recipe(("optim.lr=5e-5",)),
    "lr x 3": Recipe(("optim.lr=3e-4",)),
    "lr x 10": Recipe(("optim.lr=1e-3",)),
}
DRAWN = ("generate.temperature=0.7",)
DECODING = {
    "repetition_penalty=1.1": Recipe(("generate.repetition_penalty=1.1",), "1909.05858"),
    "no_repeat_ngram=3": Recipe(("generate.no_repeat_ngram=3",), "1705.04304"),
    "frequency_penalty=0.5": Recipe(("generate.frequency_penalty=0.5",), "OpenAI"),
    "presence_penalty=0.5": Recipe(("generate.presence_penalty=0.5",), "OpenAI"),
    "temperature=0.7": Recipe(DRAWN),
    "temperature=0.7, top_p=0.9": Recipe((*DRAWN, "generate.top_p=0.9"), "1904.09751"),
    "temperature=0.7, min_p=0.1": Recipe((*DRAWN, "generate.min_p=0.1"), "2407.01082"),
    "temperature=0.7, best_of=8": Recipe((*DRAWN, "generate.best_of=8"), "2307.06857"),
}
PREFERENCES = {
    "dpo": Recipe(("optim.lr=1e-5",), "2305.18290"),
    "dpo, norm": Recipe(("optim.lr=1e-5", "dpo.loss=norm", "dpo.beta=2"), "2411.15124"),
}

QUIET = ("eval.every=0", "eval.sample=false", "logger=none")

# The columns of the table: the number of a record, and its name.
COLUMNS = {
    "exact_match": "exact match",
    "token_f1": "token F1",
    "loss": "loss",
    "loops": "loops",
    "tokens": "tokens",
}


def loops(text: str) -> float:
    """Return the share of a text's word 3-grams that came before in it (1908.04319, "seq-rep")."""
    words = text.split()
    grams = list(zip(words, words[1:], words[2:], strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def call(*command: str) -> None:
    """Run a command of the project quietly, from the root."""
    environment = os.environ | {"PYTHONWARNINGS": "ignore"}
    found = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if found.returncode:
        sys.exit(f"{' '.join(command)}\n{found.stderr[-2000:]}")


def kept_at(out: Path, name: str, seed: int) -> Path:
    return out / "numbers" / name / f"{seed}.json"


def keep(records: Path, path: Path, which: str = "tuned") -> None:
    """Keep what the table needs of an evaluation's records."""
    rows = map(json.loads, records.read_text(encoding="utf-8").splitlines())
    names = ("exact_match", "token_f1", "loss", "tokens", "text")
    values = [{name: row[which][name] for name in names} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def evaluate(run: Path, out: Path, name: str, seed: int, *settings: str) -> None:
    """Evaluate a run, and keep the numbers of the tuned model and of its base."""
    call("evaluate.py", f"run='{run}'", "train_records=0", *settings)
    records = run / "evaluation" / "records.jsonl"
    keep(records, kept_at(out, f"{name} (base)", seed), "base")
    keep(records, kept_at(out, name, seed))


def evaluate_tuned(model: str, run: Path, out: Path, name: str, seed: int, *settings: str) -> None:
    """Evaluate a run's model without its base, on the records of the model's usual data.

    A run of preferences is asked the records of the run that it began with, not its pairs.
    """
    data = "data=nano" if model == "gpt2-nano" else "data=instructions"
    asked = out / "runs" / name / f"{seed}-evaluation"
    call("evaluate.py", f"checkpoint='{run}/model'", f"out='{asked}'", data, *settings)
    keep(asked / "records.jsonl", kept_at(out, name, seed))


def measure(model: str, out: Path, seeds: Sequence[int], split: str, only: Sequence[str]) -> None:
    """Train and evaluate what is not there yet."""
    of_split = f"split={split}"
    for seed in seeds:
        plain = out / "runs" / "plain" / str(seed)
        wanted = [
            (name, recipe)
            for name, recipe in {**TRAINING, **DECODING, **PREFERENCES}.items()
            if chosen(name, only) and not kept_at(out, name, seed).exists()
        ]
        for name, recipe in wanted:
            print(f"{name}, seed {seed}", flush=True)
            run = out / "runs" / name / str(seed)
            to = (f"seed={seed}", *QUIET, f"hydra.run.dir='{run}'")
            if name in TRAINING:
                if not (run / "summary.json").exists():
                    call("train.py", f"model={model}", *recipe.settings, *to)
                if name == "plain":
                    evaluate(run, out, name, seed, of_split)
                else:
                    evaluate_tuned(model, run, out, name, seed, of_split)
            elif name in DECODING:
                evaluate(plain, out, name, seed, of_split, f"seed={seed}", *recipe.settings)
            else:
                pairs = plain / "preferences" / "preferences.jsonl"
                if not pairs.exists():
                    call("-m", "sft.prefer", str(plain), "--seed", str(seed))
                begins = (f"model.checkpoint='{plain}/model'", f"data.path='{pairs}'")
                if not (run / "summary.json").exists():
                    call("train.py", "experiment=dpo", *begins, *recipe.settings, *to)
                evaluate_tuned(model, run, out, name, seed, of_split)


def chosen(name: str, only: Sequence[str]) -> bool:
    return not only or name == "plain" or any(name.startswith(part) for part in only)


def values_of(out: Path, name: str, seeds: Sequence[int]) -> dict[str, Any]:
    """Return (seeds, records) of each column, over the seeds that are there."""
    tables: dict[str, list[list[float]]] = {column: [] for column in COLUMNS}
    there = []
    for seed in seeds:
        path = out / "numbers" / name / f"{seed}.json"
        if not path.exists():
            continue
        there.append(seed)
        rows = json.loads(path.read_text(encoding="utf-8"))
        for column in COLUMNS:
            if column == "loops":
                tables[column].append([loops(row["text"]) for row in rows])
            else:
                tables[column].append([float(row[column] or 0) for row in rows])
    return {column: np.array(table) for column, table in tables.items()} | {"seeds": there}


def table(out: Path, seeds: Sequence[int]) -> str:
    """Return the Markdown table of all that was measured."""
    lines = [
        f"| recipe | source | seeds | {' | '.join(COLUMNS.values())} | exact match against plain |",
        "|---" * (4 + len(COLUMNS)) + "|",
    ]
    plain = values_of(out, "plain", seeds)
    sources = {**TRAINING, **DECODING, **PREFERENCES}
    folders = sorted((out / "numbers").iterdir()) if (out / "numbers").exists() else []
    order = {name: place for place, name in enumerate(sources)}
    shown = [
        folder.name
        for folder in folders
        if not folder.name.endswith("(base)")
        or folder.name.removesuffix(" (base)") in {"plain", *DECODING}
    ]
    names = sorted(
        shown,
        key=lambda name: (name.endswith("(base)"), order.get(name.removesuffix(" (base)"), 99)),
    )

    # First all comparisons, so that their p-values can be corrected for their number.
    found = {}
    for name in names:
        values = values_of(out, name, seeds)
        both = [seed for seed in values["seeds"] if seed in plain["seeds"]]
        if name == "plain" or name.endswith("(base)") or not both:
            continue
        first = values["exact_match"][[values["seeds"].index(seed) for seed in both]]
        second = plain["exact_match"][[plain["seeds"].index(seed) for seed in both]]
        found[name] = group_difference(first, second, same_seeds=True)
    corrected = dict(zip(found, holm([one.p_value for one in found.values()]), strict=True))

    for name in names:
        values = values_of(out, name, seeds)
        cells = []
        for column in COLUMNS:
            mean = group_mean(values[column])
            text = f"{mean.mean:.3f}" if column != "tokens" else f"{mean.mean:.1f}"
            if mean.interval and column != "tokens":
                text += f" ({mean.interval[0]:.3f} to {mean.interval[1]:.3f})"
            cells.append(text)
        verdict = ""
        if name in found:
            one = found[name]
            verdict = f"{one.difference:+.3f}"
            if one.interval:
                verdict += f" ({one.interval[0]:+.3f} to {one.interval[1]:+.3f})"
            else:
                verdict += " (fewer than six records differ)"
            sure = corrected[name] < 0.05
            better = "better" if one.difference > 0 else "worse"
            outside = one.interval is not None and not one.interval[0] <= 0 <= one.interval[1]
            unsure = "not beyond noise after the correction" if outside else "within noise"
            verdict += f", {better if sure else unsure}"
        source = sources.get(name.removesuffix(" (base)"), Recipe(())).source
        seeds_there = len(values["seeds"])
        lines.append(f"| {name} | {source} | {seeds_there} | {' | '.join(cells)} | {verdict} |")
    return "\n".join(lines)


def write_log(model: str, text: str, split: str) -> None:
    """Put the table into docs/recipes.md, in place of the model's table from before."""
    begin, end = (mark.format(model=model) for mark in MARKS)
    log = LOG.read_text(encoding="utf-8")
    explained = (
        f"`make recipes MODEL={model}`, {split} split, 95% intervals over seeds and records. "
        "Loops: the share of an answer's word 3-grams that came before in it. The verdict is "
        "corrected for the number of comparisons (Holm). `(base)` is the untuned model."
    )
    part = f"{begin}\n### Measured on `{model}`\n\n{explained}\n\n{text}\n{end}"
    before, found, rest = log.partition(begin)
    after = rest.partition(end)[2] if found else "\n"
    text_before = before if found else f"{log.rstrip()}\n\n"
    LOG.write_text(text_before + part + after, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="gpt2-nano")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--split", default="test", choices=("test", "validation"))
    parser.add_argument("--out", type=Path, default=None, help="default: outputs/recipes/MODEL")
    parser.add_argument("--only", default="", help="names, or how they begin, with commas")
    parser.add_argument("--table", action="store_true", help="only write what was measured")
    arguments = parser.parse_args()
    out = (arguments.out or ROOT / "outputs" / "recipes" / arguments.model).absolute()
    seeds = range(1, arguments.seeds + 1)
    only = [name for name in arguments.only.split(",") if name]
    if not arguments.table:
        measure(arguments.model, out, seeds, arguments.split, only)
    text = table(out, seeds)
    write_log(arguments.model, text, arguments.split)
    print(text)


if __name__ == "__main__":
    main()
