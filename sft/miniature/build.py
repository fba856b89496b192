"""Rebuild the embedded model: write its training text, and adopt the model that the run trained.

Commands:
    # Write text, instruction records, tokenizer, and an untrained checkpoint.
    python -m sft.miniature.build text build/nano
    # Pretrain on the stories, and then on the lessons.
    python train.py experiment=nano-base hydra.run.dir=build/nano/stories
    python train.py experiment=nano-lessons hydra.run.dir=build/nano/lessons
    # Make the last model, in half precision, sft/miniature/gpt2-nano.
    python -m sft.miniature.build adopt build/nano/stories build/nano/lessons
"""

import argparse
import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from sft.checkpoint.folder import load_pretrained, save_pretrained
from sft.dataclass_json import to_json
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.tokenizer import load_tokenizer
from sft.miniature.facts import all_facts
from sft.miniature.lessons import lessons
from sft.miniature.vocabulary import VOCAB_SIZE, bpe, learn_merges, write_bpe_files
from sft.miniature.world import Storyteller, documents, records
from sft.summaries import RunSummary, read_run_summary

ASSETS = Path(__file__).parent
SEED = 0
N_STORIES = 54_000
N_LESSONS = 17_200
N_TOKENIZER_PASSAGES = 60_000
ARCHITECTURE = GPTConfig(n_layer=4, n_head=4, n_embd=256, vocab_size=VOCAB_SIZE, n_positions=256)
# The documents of a seed: how many, the number of tokens of a text, and the longest document.
Texts = Callable[[int, int, Callable[[str], int], int], Iterator[str]]

RECORDED = (
    "seed",
    "steps",
    "epochs",
    "tokens_seen",
    "seconds",
    "precision",
    "losses",
    "best_validation_loss",
)


def write_text(folder: Path, n_stories: int, n_lessons: int) -> None:
    """Write `pretrain.jsonl`, `lessons.jsonl` and the checkpoint `untrained/` to `folder`.

    Write the records, `nano.json`, beside this file.
    """
    untrained = folder / "untrained"
    untrained.mkdir(parents=True, exist_ok=True)
    passages = Storyteller(all_facts(SEED), random.Random(SEED)).passages()
    merges = learn_merges(itertools.islice(passages, N_TOKENIZER_PASSAGES))
    write_bpe_files(merges, untrained)
    write_untrained(untrained)
    write_documents(folder / "pretrain.jsonl", documents, merges, n_stories)
    write_documents(folder / "lessons.jsonl", lessons, merges, n_lessons)
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records(SEED))
    (ASSETS / "nano.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def write_untrained(folder: Path) -> None:
    """Add fresh weights to the tokenizer in `folder`."""
    torch.manual_seed(SEED)
    save_pretrained(GPT(ARCHITECTURE), folder, load_tokenizer(folder))


def write_documents(path: Path, texts: Texts, merges: list[tuple[str, str]], count: int) -> None:
    """Write plain text as records whose output alone is learned (`data.prompt=none`)."""
    tokenizer = bpe(merges)

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    # This leaves room for the end token.
    longest = ARCHITECTURE.n_positions - 2
    with path.open("w", encoding="utf-8") as file:
        for text in texts(SEED, count, tokens, longest):
            record = {"instruction": "", "input": "", "output": text}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def adopt(told: Path, taught: Path) -> None:
    """Make the model of the second of two finished runs the embedded one.

    Record in `nano-base.json` how both were made.
    """
    trained = load_pretrained(taught / "model")
    save_pretrained(trained.model, ASSETS / "gpt2-nano", trained.tokenizer, dtype=torch.float16)
    runs = {"stories": told, "lessons": taught}
    made = {name: how_it_was_made(read_run_summary(run)) for name, run in runs.items()}
    record = json.dumps(made, indent=2, ensure_ascii=False)
    (ASSETS / "nano-base.json").write_text(record + "\n", encoding="utf-8")


def how_it_was_made(summary: RunSummary) -> dict[str, Any]:
    """Return what `nano-base.json` keeps of a run's summary."""
    text: dict[str, Any] = {"seed": SEED, "sha256": summary.data.sha256}
    for name in ("train", "validation"):
        split = summary.data.splits[name]
        text[name] = {"records": split["records"], "tokens": split["tokens"]}

    made: dict[str, Any] = {"text": text}
    for key in RECORDED:
        made[key] = to_json(getattr(summary, key))
    for key in ("batch_size", "accumulate", "optim"):
        made[key] = summary.config[key]
    made["torch"] = summary.versions["torch"]
    return made


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sft.miniature.build", description="Rebuild the embedded model."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    text = commands.add_parser(
        "text", help="write the pretraining text, the records and an untrained checkpoint"
    )
    text.add_argument("folder", type=Path)
    text.add_argument(
        "--stories", type=int, default=N_STORIES, help="how many documents (%(default)s)"
    )
    text.add_argument(
        "--lessons", type=int, default=N_LESSONS, help="how many documents (%(default)s)"
    )
    adoption = commands.add_parser("adopt", help="take over the model of two finished runs")
    adoption.add_argument("stories", type=Path)
    adoption.add_argument("lessons", type=Path, help="the run that went on from the first")
    arguments = parser.parse_args()
    if arguments.command == "text":
        write_text(arguments.folder, arguments.stories, arguments.lessons)
    else:
        adopt(arguments.stories, arguments.lessons)


if __name__ == "__main__":
    main()
