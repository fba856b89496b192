"""A model's answers, each written to disk as soon as it is finished.

`answers.jsonl` has a line for each answer: `key`, `text`, `tokens` (their number), `finish_reason`.
The key is a hash of everything that decides the answer. So a line is reused exactly where the model
would give the same answer again.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import tiktoken

from sft.bars import Bar
from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.config.schema import GenerateConfig
from sft.device import DTYPES, AnswerPrecision
from sft.gpt2.frozen import freeze
from sft.gpt2.generate import Timing, complete, row_seeds
from sft.gpt2.model import GPT
from sft.gpt2.sampling import Sampling
from sft.gpt2.tokenizer import decode
from sft.jsonl import LineFile
from sft.metrics import token_f1


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


# The settings that nothing reads at temperature 0.
OF_DRAWING = ("top_k", "top_p", "min_p", "best_of")


@dataclass(kw_only=True)
class Decoding(GenerateConfig):
    """The settings of decoding; conf/evaluate.yaml explains each."""

    seed: int
    precision: AnswerPrecision

    @classmethod
    def of(
        cls,
        config: GenerateConfig,
        seed: int,
        precision: AnswerPrecision,
        checkpoints: Iterable[Pretrained],
    ) -> "Decoding":
        """Return the settings, with the checkpoints' own end tokens added to `stop`."""
        settings = asdict(config)
        for one in checkpoints:
            settings["stop"] += [end for end in one.ends if end not in settings["stop"]]
        return cls(**settings, seed=seed, precision=precision)

    @property
    def sampling(self) -> Sampling:
        names = [field.name for field in fields(Sampling) if hasattr(self, field.name)]
        return Sampling(**{name: getattr(self, name) for name in names})

    def changed(self) -> dict[str, Any]:
        """Return the settings that are not at their defaults, by name.

        So that older answers and evaluations stay equal to those of today, a new setting is
        written down only where it is used.
        """
        plain = GenerateConfig()
        values = {field.name: getattr(self, field.name) for field in fields(GenerateConfig)}
        return {name: value for name, value in values.items() if value != getattr(plain, name)}

    def in_summary(self) -> dict[str, Any]:
        """Return the settings as an evaluation's summary keeps them."""
        always = ("max_new_tokens", "temperature", "top_k", "seed", "precision")
        return {name: getattr(self, name) for name in always} | self.changed()

    def deciding(self, row_seed: int) -> dict[str, Any]:
        """Return the settings that decide a row's answer.

        The settings of drawing and the seed are among them only if the answer is sampled.
        """
        settings: dict[str, Any] = {
            "max_new_tokens": self.max_new_tokens,
            "precision": self.precision,
            "temperature": self.temperature,
        }
        changed = self.changed()
        if self.temperature > 0:
            settings |= {"top_k": self.top_k, "seed": row_seed}
            return settings | changed
        return settings | {name: changed[name] for name in changed.keys() - set(OF_DRAWING)}


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
    timing: Timing | None = None,
) -> None:
    """Answer the prompts, and add each answer to the file when it is finished.

    A sampled answer is drawn from its row's own seed. So it depends neither on the other rows of
    its batch nor on where an interrupted evaluation continued. In bf16 and fp16, sums are rounded
    differently in batches of other sizes, and two nearly equal choices may change places.

    Args:
        name: of the progress bar.
        timing: each step of decoding is added to it.
    """
    found = decode_answers(
        model,
        tokenizer,
        [one.prompt for one in waiting],
        [one.seed for one in waiting],
        decoding,
        batch_size,
        timing,
    )
    for index, answer in Bar(
        found, total=len(waiting), desc=name, unit="answer", disable=not waiting
    ):
        file.add(waiting[index].key, answer)


def decode_answers(
    model: GPT,
    tokenizer: tiktoken.Encoding,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    decoding: Decoding,
    slots: int,
    timing: Timing | None = None,
) -> Iterator[tuple[int, Answer]]:
    """Answer prompts, and yield each answer, with its prompt's index, when it is finished.

    Args:
        seeds: one for each prompt.
        slots: answers that are decoded together.
        timing: each step of decoding is added to it.
    """
    # A prompt from which several answers are drawn is read once for each, so that its answers are
    # decoded together.
    samples = decoding.best_of
    if samples > 1:
        prompts = [prompt for prompt in prompts for _ in range(samples)]
        seeds = [seed for one in seeds for seed in row_seeds(one, samples)]

    drawn: dict[int, dict[int, Answer]] = {}
    for completion in complete(
        model,
        prompts,
        decoding.max_new_tokens,
        decoding.sampling,
        tokenizer.eot_token,
        seeds,
        slots,
        ends=stops_at(tokenizer, decoding.stop),
        timing=timing,
    ):
        text = cut(decode(tokenizer, completion.tokens), decoding.stop)
        answer = Answer(text, len(completion.tokens), completion.finish_reason)
        index, sample = divmod(completion.index, samples)
        of_prompt = drawn.setdefault(index, {})
        of_prompt[sample] = answer
        if len(of_prompt) == samples:
            del drawn[index]
            yield index, most_agreed([of_prompt[number] for number in range(samples)])


def stops_at(
    tokenizer: tiktoken.Encoding, stop: Sequence[str]
) -> Callable[[list[int]], bool] | None:
    """Return a function that says whether the newest token of an answer ends one of the texts."""
    if not stop:
        return None

    # A token has at least one byte, so a text of N bytes that has just ended lies in the last N
    # tokens.
    most = max(len(text.encode()) for text in stop)

    def ends(tokens: list[int]) -> bool:
        tail = decode(tokenizer, tokens[-most:])
        return any(text in tail for text in stop)

    return ends


def cut(text: str, stop: Sequence[str]) -> str:
    """Return the text up to the first of the texts that end it."""
    return text[: min((text.index(end) for end in stop if end in text), default=None)]


def most_agreed(answers: Sequence[Answer]) -> Answer:
    """Return the answer that is most like the others (2307.06857), or the first of several.

    Likeness is the F1 of words. Unlike the paper's share of common words, it does not favour long
    answers. Where answers are either equal or have no word in common, this is a vote.
    """

    def agreement(index: int) -> float:
        others = [other for number, other in enumerate(answers) if number != index]
        return sum(token_f1(answers[index].text, other.text) for other in others)

    return answers[max(range(len(answers)), key=agreement)]


def answer_all(
    model: GPT,
    checkpoint: Pretrained,
    prompts: Sequence[Sequence[int]],
    decoding: Decoding,
    file: LineFile[Answer],
    batch_size: int = 32,
    name: str = "answers",
    timing: Timing | None = None,
) -> list[Answer]:
    """Return the answer to each prompt. Those that are not in the file are made and added to it.

    Args:
        model: the checkpoint's, on its device and in its precision.
        timing: each step of decoding is added to it.
    """
    waiting = unanswered(prompts, checkpoint.sha256, decoding, file)
    add_answers(model, checkpoint.tokenizer, waiting, decoding, file, batch_size, name, timing)
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
    freeze(checkpoint.model, int8=decoding.precision == "int8")
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
