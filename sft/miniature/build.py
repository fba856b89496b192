"""Rebuild the embedded model: write its training text, and adopt the model that the run trained.

Commands:
    # Write text, instruction records, tokenizer, and an untrained checkpoint.
    python -m sft.miniature.build text build/nano
    # Pretrain.
    python train.py experiment=nano-base
    # Make RUN/model, in half precision, sft/miniature/gpt2-nano.
    python -m sft.miniature.build adopt RUN
"""

import argparse
import itertools
import json
import random
from pathlib import Path
from typing import Any

import torch

from sft.atomic import read_json
from sft.checkpoint.folder import load_pretrained, save_pretrained
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.tokenizer import load_tokenizer
from sft.miniature.facts import all_facts
from sft.miniature.vocabulary import VOCAB_SIZE, bpe, learn_merges, write_bpe_files
from sft.miniature.world import Storyteller, documents, records

ASSETS = Path(__file__).parent
SEED = 0
N_DOCUMENTS = 54_000
N_TOKENIZER_PASSAGES = 60_000
ARCHITECTURE = GPTConfig(n_layer=4, n_head=4, n_embd=256, vocab_size=VOCAB_SIZE, n_positions=256)
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


def write_text(folder: Path, n_documents: int) -> None:
    """Write `pretrain.jsonl` and the checkpoint `untrained/` to `folder`.

    Write the records, `nano.json`, beside this file.
    """
    untrained = folder / "untrained"
    untrained.mkdir(parents=True, exist_ok=True)
    passages = Storyteller(all_facts(SEED), random.Random(SEED)).passages()
    merges = learn_merges(itertools.islice(passages, N_TOKENIZER_PASSAGES))
    write_bpe_files(merges, untrained)
    write_untrained(untrained)
    write_documents(folder / "pretrain.jsonl", merges, n_documents)
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records(SEED))
    (ASSETS / "nano.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def write_untrained(folder: Path) -> None:
    """Add fresh weights to the tokenizer in `folder`."""
    torch.manual_seed(SEED)
    save_pretrained(GPT(ARCHITECTURE), folder, load_tokenizer(folder))


def write_documents(path: Path, merges: list[tuple[str, str]], count: int) -> None:
    """Write plain text as records whose output alone is learned (`data.prompt=none`)."""
    tokenizer = bpe(merges)

    def tokens(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    # This leaves room for the end token.
    longest = ARCHITECTURE.n_positions - 2
    with path.open("w", encoding="utf-8") as file:
        for text in documents(SEED, count, tokens, longest):
            record = {"instruction": "", "input": "", "output": text}
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def adopt(run: Path) -> None:
    """Make the model of a finished run the embedded one, and record how in `nano-base.json`."""
    trained = load_pretrained(run / "model")
    save_pretrained(trained.model, ASSETS / "gpt2-nano", trained.tokenizer, dtype=torch.float16)
    summary = read_json(run / "summary.json")
    record = json.dumps(how_it_was_made(summary), indent=2, ensure_ascii=False)
    (ASSETS / "nano-base.json").write_text(record + "\n", encoding="utf-8")


def how_it_was_made(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the content of `nano-base.json`, from the run's `summary.json`."""
    text = {"seed": SEED, "sha256": summary["data"]["sha256"]}
    for name in ("train", "validation"):
        split = summary["data"]["splits"][name]
        text[name] = {"records": split["records"], "tokens": split["tokens"]}

    made = {"text": text}
    for key in RECORDED:
        made[key] = summary[key]
    for key in ("batch_size", "accumulate", "optim"):
        made[key] = summary["config"][key]
    made["torch"] = summary["versions"]["torch"]
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
        "--documents", type=int, default=N_DOCUMENTS, help="how many (default: %(default)s)"
    )
    adoption = commands.add_parser("adopt", help="take over the model of a finished run")
    adoption.add_argument("run", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "text":
        write_text(arguments.folder, arguments.documents)
    else:
        adopt(arguments.run)


if __name__ == "__main__":
    main()
