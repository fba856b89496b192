"""A model's answers, each written to disk as soon as it is finished.

`answers.jsonl` has a line for each answer: `key`, `text`, `tokens` (their number), `finish_reason`.
The key is a hash of everything that decides the answer. So a line is reused exactly where the model
would give the same answer again.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import tiktoken
from tqdm import tqdm

from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.device import DTYPES
from sft.gpt2.generate import complete, row_seeds
from sft.gpt2.model import GPT
from sft.gpt2.sampling import Sampling
from sft.gpt2.tokenizer import decode
from sft.jsonl import LineFile


@dataclass(frozen=True)
class Answer:
    """A model's answer.

    Attributes:
        tokens: their number, without the end token.
        finish_reason: `stop` if the model ended it, `length` if a limit did.
    """

    text: str
    tokens: int
    finish_reason: str


@dataclass(frozen=True)
class Decoding:
    """The settings of decoding; conf/evaluate.yaml explains each."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    seed: int
    precision: str

    def deciding(self, row_seed: int) -> dict[str, Any]:
        """Return the settings that decide a row's answer.

        `top_k` and the seed are among them only if the answer is sampled.
        """
        settings: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "precision": self.precision,
            "temperature": self.temperature,
        }
        if self.temperature > 0:
            settings |= {"top_k": self.top_k, "seed": row_seed}
        return settings


class AnswerFile(LineFile[Answer]):
    """`answers.jsonl`: the finished answers, by key."""

    kind = Answer
    noun = "answer"


def answer_keys(prompts: Sequence[Sequence[int]], weights: str, decoding: Decoding) -> list[str]:
    """Return a hash for each prompt's answer.

    Args:
        prompts: token ids, which depend on record, template and tokenizer.
        weights: the hash of the model's weights.
    """
    keys = []
    for prompt, seed in zip(prompts, row_seeds(decoding.seed, len(prompts)), strict=True):
        parts = [list(prompt), weights, decoding.deciding(seed)]
        keys.append(hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest())
    return keys


class Waiting(NamedTuple):
    """A prompt that has no answer yet."""

    key: str
    prompt: Sequence[int]
    seed: int


def unanswered(
    prompts: Sequence[Sequence[int]], weights: str, decoding: Decoding, file: LineFile[Answer]
) -> list[Waiting]:
    """Return the prompts whose answer is not in the file. Of equal prompts, one is returned."""
    keys = answer_keys(prompts, weights, decoding)
    seeds = row_seeds(decoding.seed, len(prompts))
    by_key = {one.key: one for one in map(Waiting, keys, prompts, seeds)}
    return [one for key, one in by_key.items() if key not in file.by_key]


def add_answers(
    model: GPT,
    tokenizer: tiktoken.Encoding,
    waiting: Sequence[Waiting],
    decoding: Decoding,
    file: LineFile[Answer],
    batch_size: int,
    name: str,
) -> None:
    """Answer the prompts, and add each answer to the file when it is finished.

    A sampled answer is drawn from its row's own seed. So it depends neither on the other rows of
    its batch nor on where an interrupted evaluation continued. In bf16 and fp16, sums are rounded
    differently in batches of other sizes, and two nearly equal choices may change places.

    Args:
        name: of the progress bar.
    """
    completions = complete(
        model,
        [one.prompt for one in waiting],
        decoding.max_new_tokens,
        Sampling(decoding.temperature, decoding.top_k),
        tokenizer.eot_token,
        [one.seed for one in waiting],
        slots=batch_size,
    )
    bar = tqdm(completions, total=len(waiting), desc=name, unit="answer", disable=not waiting)
    for found in bar:
        text = decode(tokenizer, found.tokens)
        file.add(waiting[found.index].key, Answer(text, len(found.tokens), found.finish_reason))


def answer_all(
    model: GPT,
    checkpoint: Pretrained,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    file: LineFile[Answer],
    batch_size: int = 32,
    name: str = "answers",
) -> list[Answer]:
    """Return the answer to each prompt. Those that are not in the file are made and added to it.

    Args:
        model: the checkpoint's, on its device and in its precision.
    """
    waiting = unanswered(prompts, checkpoint.sha256, decoding, file)
    add_answers(model, checkpoint.tokenizer, waiting, decoding, file, batch_size, name)
    return [file.by_key[key] for key in answer_keys(prompts, checkpoint.sha256, decoding)]


# Several processes: each writes a file of its own, so that no two write to one file at once.


def answer_share(
    source: str,
    revision: str | None,
    device: str,
    waiting: Sequence[Waiting],
    decoding: Decoding,
    path: Path,
    batch_size: int,
    name: str,
) -> None:
    """Make this process's share of the answers, in a file of its own next to `path`.

    The launcher has set its rank and the number of processes.
    """
    rank = int(os.environ["LOCAL_RANK"])
    processes = int(os.environ["WORLD_SIZE"])
    if device == "cuda":
        device = f"cuda:{rank}"
    checkpoint = load_pretrained(source, revision, dtype=DTYPES[decoding.precision], device=device)
    add_answers(
        checkpoint.model.eval(),
        checkpoint.tokenizer,
        waiting[rank::processes],
        decoding,
        AnswerFile(path.with_suffix(f".{rank}.jsonl")),
        batch_size,
        f"{name}, process {rank}",
    )


def collect_shares(file: AnswerFile) -> None:
    """Move the answers of each process into the file.

    Processes of an evaluation that was killed may have left some too.
    """
    for path in sorted(file.path.parent.glob(f"{file.path.stem}.*.jsonl")):
        for key, found in AnswerFile(path).by_key.items():
            if key not in file.by_key:
                file.add(key, found)
        path.unlink()
