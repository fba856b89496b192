"""A model's answers, each kept on the disk from the moment it is finished.

`answers.jsonl` has a line for each answer: `key`, `text`, `tokens` (their number), `finish_reason`. The key is a hash
of all that decides the answer, so a line is used again exactly where the model would give it again.
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
    """What the model said, in how many tokens, and what ended it: its end token (`stop`) or a limit (`length`)."""

    text: str
    tokens: int
    finish_reason: str


@dataclass(frozen=True)
class Decoding:
    """How answers are made; the meaning of each is in conf/evaluate.yaml."""

    max_new_tokens: int
    temperature: float
    top_k: int | None
    seed: int
    precision: str

    def deciding(self, row_seed: int) -> dict[str, Any]:
        """What decides a row's answer: without sampling, neither `top_k` nor the seed do."""
        settings = {
            "max_new_tokens": self.max_new_tokens,
            "precision": self.precision,
            "temperature": self.temperature,
        }
        return settings | ({"top_k": self.top_k, "seed": row_seed} if self.temperature > 0 else {})


class AnswerFile(LineFile[Answer]):
    """`answers.jsonl`: the answers there are, by key."""

    kind = Answer
    noun = "answer"


def answer_keys(prompts: Sequence[Sequence[int]], weights: str, decoding: Decoding) -> list[str]:
    """A hash for each prompt's answer.

    Args:
        prompts: token ids, in which record, template and tokenizer have met.
        weights: the hash of the model's weights.
    """
    seeds = row_seeds(decoding.seed, len(prompts))
    parts = [
        [list(prompt), weights, decoding.deciding(seed)]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    return [hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for part in parts]


class Asked(NamedTuple):
    """A prompt that waits for its answer."""

    key: str
    prompt: Sequence[int]
    seed: int


def unanswered(
    prompts: Sequence[Sequence[int]], weights: str, decoding: Decoding, file: LineFile[Answer]
) -> list[Asked]:
    """The prompts whose answer is not in the file, equal ones once."""
    keys, seeds = answer_keys(prompts, weights, decoding), row_seeds(decoding.seed, len(prompts))
    asked = {one.key: one for one in map(Asked, keys, prompts, seeds)}
    return [one for key, one in asked.items() if key not in file.by_key]


def answer(
    model: GPT,
    tokenizer: tiktoken.Encoding,
    asked: Sequence[Asked],
    decoding: Decoding,
    file: LineFile[Answer],
    batch_size: int,
    name: str,
) -> None:
    """Put the answers into the file.

    A sampled answer is drawn from its row's own seed, so it is the same whatever stands beside it and wherever an
    interrupted evaluation went on. In bf16 and fp16, sums are rounded differently in different company, and two nearly
    equal choices may change places.

    Args:
        name: of the progress bar.
    """
    completions = complete(
        model,
        [one.prompt for one in asked],
        decoding.max_new_tokens,
        Sampling(decoding.temperature, decoding.top_k),
        tokenizer.eot_token,
        [one.seed for one in asked],
        slots=batch_size,
    )
    for found in tqdm(completions, total=len(asked), desc=name, unit="answer", disable=not asked):
        text = decode(tokenizer, found.tokens)
        file.add(asked[found.index].key, Answer(text, len(found.tokens), found.finish_reason))


def answer_all(
    model: GPT,
    checkpoint: Pretrained,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    file: LineFile[Answer],
    batch_size: int = 32,
    name: str = "answers",
) -> list[Answer]:
    """The answer to each prompt, from the file if it is there, else from the model and then into the file.

    Args:
        model: the checkpoint's, on its device and in its precision.
    """
    asked = unanswered(prompts, checkpoint.sha256, decoding, file)
    answer(model, checkpoint.tokenizer, asked, decoding, file, batch_size, name)
    return [file.by_key[key] for key in answer_keys(prompts, checkpoint.sha256, decoding)]


# Several processes: each writes a file of its own, so that none can spoil another's line


def answer_share(
    source: str,
    revision: str | None,
    device: str,
    asked: Sequence[Asked],
    decoding: Decoding,
    path: Path,
    batch_size: int,
    name: str,
) -> None:
    """This process's share of the answers, by the rank that its launcher gave it, into a file beside `path`."""
    rank, processes = int(os.environ["LOCAL_RANK"]), int(os.environ["WORLD_SIZE"])
    device = f"cuda:{rank}" if device == "cuda" else device
    mine = asked[rank::processes]
    checkpoint = load_pretrained(source, revision, dtype=DTYPES[decoding.precision], device=device)
    file = AnswerFile(path.with_suffix(f".{rank}.jsonl"))
    answer(
        checkpoint.model.eval(),
        checkpoint.tokenizer,
        mine,
        decoding,
        file,
        batch_size,
        f"{name}, process {rank}",
    )


def gather(file: AnswerFile) -> None:
    """Take over what processes, also those of an evaluation that was killed, have left beside the file."""
    for path in sorted(file.path.parent.glob(f"{file.path.stem}.*.jsonl")):
        for key, found in AnswerFile(path).by_key.items():
            if key not in file.by_key:
                file.add(key, found)
        path.unlink()
