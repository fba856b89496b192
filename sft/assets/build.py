"""Rebuilds the embedded model in two steps, with a training run between them (`make nano` does the first).

python -m sft.assets.build text build/nano   # text, records, tokenizer, an untrained checkpoint
python train.py experiment=nano-base         # pretraining
python -m sft.assets.build adopt RUN         # RUN/model becomes sft/assets/gpt2-nano in half precision
"""

import argparse
import itertools
import json
import random
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from sft.assets.facts import all_facts
from sft.assets.vocabulary import VOCAB_SIZE, bpe, learn_merges, write_bpe_files
from sft.assets.world import Storyteller, documents, records
from sft.gpt2.checkpoint import save_pretrained
from sft.gpt2.model import GPT, GPTConfig

ASSETS = Path(__file__).parent
SEED = 0
N_DOCUMENTS = 54_000
CONFIG = GPTConfig(n_layer=4, n_head=4, n_embd=256, vocab_size=VOCAB_SIZE, n_positions=256, eos_token_id=VOCAB_SIZE - 1)


def write_text(folder: Path, n_documents: int = N_DOCUMENTS) -> None:
    """`pretrain.jsonl` and `untrained/` in `folder`, and the instruction records beside this file."""
    untrained = folder / "untrained"
    untrained.mkdir(parents=True, exist_ok=True)
    passages = Storyteller(all_facts(SEED), random.Random(SEED)).passages()
    merges = learn_merges(itertools.islice(passages, 60_000))
    write_untrained(merges, untrained)

    tokenizer = bpe(merges)
    texts = documents(SEED, n_documents, lambda text: len(tokenizer.encode(text).ids), CONFIG.n_positions - 2)
    with (folder / "pretrain.jsonl").open("w", encoding="utf-8") as file:
        for text in texts:
            file.write(json.dumps({"instruction": "", "input": "", "output": text}, ensure_ascii=False) + "\n")

    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records(SEED))
    (ASSETS / "nano.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")


def write_untrained(merges: list[tuple[str, str]], folder: Path) -> None:
    raise NotImplementedError
