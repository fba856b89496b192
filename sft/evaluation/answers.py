"""A model's answers, each kept on the disk from the moment it is finished.

`answers.jsonl` has a line for each answer: `key`, `text`, `tokens` (their number), `finish_reason`. The key is a hash
of all that decides the answer, so a line is used again exactly where the model would give it again.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from sft.evaluation.lines import LineFile
from sft.gpt2.checkpoint import Pretrained
from sft.gpt2.generate import Sampling, complete, row_seeds
from sft.gpt2.model import GPT
from sft.gpt2.tokenizer import decode


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
        settings = {"max_new_tokens": self.max_new_tokens, "precision": self.precision, "temperature": self.temperature}
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
    parts = [[list(prompt), weights, decoding.deciding(seed)] for prompt, seed in zip(prompts, seeds, strict=True)]
    return [hashlib.sha256(json.dumps(part, sort_keys=True).encode()).hexdigest() for part in parts]


def answer_all(
    model: GPT,
    checkpoint: Pretrained,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    file: AnswerFile,
    batch_size: int = 16,
    name: str = "answers",
) -> list[Answer]:
    """The answer to each prompt, from the file if it is there, else from the model and then into the file.

    A sampled answer is drawn from its row's own seed, so it is the same whatever stands beside it and wherever an
    interrupted evaluation went on. In bf16 and fp16, sums are rounded differently in different company, and two nearly
    equal choices may change places.

    Args:
        model: the checkpoint's, on its device and in its precision.
        name: of the progress bar.
    """
    tokenizer = checkpoint.tokenizer
    keys, seeds = answer_keys(prompts, checkpoint.sha256, decoding), row_seeds(decoding.seed, len(prompts))
    rows = list({key: row for row, key in enumerate(keys) if key not in file.by_key}.values())
    answers = complete(
        model,
        [prompts[row] for row in rows],
        decoding.max_new_tokens,
        Sampling(decoding.temperature, decoding.top_k),
        tokenizer.eot_token,
        [seeds[row] for row in rows],
        slots=batch_size,
    )
    with tqdm(total=len(set(keys)), initial=len(set(keys)) - len(rows), desc=name, unit="answer") as bar:
        for answer in answers:
            text = decode(tokenizer, answer.tokens)
            file.add(keys[rows[answer.index]], Answer(text, len(answer.tokens), answer.finish_reason))
            bar.update()
    return [file.by_key[key] for key in keys]
