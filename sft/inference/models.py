"""The models that are asked: a tuned one, and the base that it was tuned from, both in the tuned one's template."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tiktoken
import torch

from sft.atomic import read_json
from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.data.prompt import chat_tokens, is_chat, message_of, prompt_tokens, template_of
from sft.data.records import Record
from sft.device import DTYPES, pick_device, pick_precision
from sft.errors import InputError
from sft.gpt2.model import GPT
from sft.prompts import PROMPTS

log = logging.getLogger(__name__)


class TooLongError(InputError):
    """A question fills the model's context."""


@dataclass(frozen=True)
class Place:
    """Where models are computed, and in which precision (Lightning's names)."""

    device: str
    precision: str

    @classmethod
    def pick(cls, device: str, precision: str) -> "Place":
        device = pick_device(device)
        return cls(device, pick_precision(precision, device))

    def load(self, name: str | Path, revision: str | None = None) -> Pretrained:
        found = load_pretrained(name, revision, dtype=DTYPES[self.precision], device=self.device)
        found.model.eval()
        check_finite(found)
        return found


def check_finite(checkpoint: Pretrained) -> None:
    """Raise InputError if a weight in memory is NaN or infinite: every answer would repeat one token."""
    for name, tensor in checkpoint.model.state_dict().items():
        # A sum is one pass without memory of its own. Huge finite values can overflow it, so then
        # each is tested.
        if torch.isfinite(tensor.sum(dtype=torch.float32)) or torch.isfinite(tensor).all():
            continue
        bad = int((~torch.isfinite(tensor)).sum())
        where = f"{checkpoint.source}: tensor {name!r}"
        if torch.isfinite(checkpoint.read(name)).all():
            raise InputError(
                f"{where}: {bad:,} weights are too large for {tensor.dtype}; give --precision 32"
            )
        raise InputError(
            f"{where}: {bad:,} of {tensor.numel():,} weights are NaN or infinite; use another checkpoint"
        )


@dataclass(frozen=True)
class Voice:
    """A checkpoint in memory, and the template that it is asked in."""

    checkpoint: Pretrained
    template: str

    @property
    def model(self) -> GPT:
        return self.checkpoint.model

    @property
    def tokenizer(self) -> tiktoken.Encoding:
        return self.checkpoint.tokenizer

    @property
    def context(self) -> int:
        return self.model.config.n_positions

    @property
    def converses(self) -> bool:
        """Whether the model has a chat template of its own, which takes earlier turns too."""
        return is_chat(self.template)

    def prompt(
        self, instruction: str, input: str = "", earlier: Sequence[tuple[str, str]] = ()
    ) -> list[int]:
        """The token ids of a question.

        Args:
            earlier: roles and texts of the turns before it, for a model that `converses`.

        Raises:
            TooLongError: they leave no room for an answer.
        """
        record = Record(instruction, input, "")
        if earlier:
            prompt = chat_tokens(
                self.template, [*earlier, ("user", message_of(record))], self.tokenizer
            )
        else:
            prompt = prompt_tokens(self.template, record, self.tokenizer)
        if not prompt:
            raise InputError("the question, in the model's template, is no text at all")
        if len(prompt) >= self.context:
            raise TooLongError(
                f"{len(prompt)} tokens leave no room in the model's context of {self.context}"
            )
        return prompt

    def __str__(self) -> str:
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return f"{self.checkpoint.source}, {parameters / 1e6:,.0f}M parameters"


def load_tuned(name: str, place: Place) -> Voice:
    """The model of a run, of a Hugging Face folder, or of a repository of the hub.

    Raises:
        InputError: there is none; or it was trained on plain text and cannot be asked anything.
    """
    found = place.load(name)
    template = template_of(found.source, found.prompt, found.chat_template, found.names)
    if template is None:
        log.warning(f"warning: {found.source} names no prompt template; it is asked in alpaca's")
        template = PROMPTS["alpaca"]
    if not template:
        raise InputError(f"{found.source}: trained on plain text, without a template to ask it in")
    return Voice(found, template)


def load_base(tuned: Voice, place: Place) -> Voice:
    """The model that another was tuned from, asked in the same words.

    Raises:
        InputError: the tuned model names none, or it cannot be had, or it has the same weights.
    """
    checkpoint = tuned.checkpoint
    if checkpoint.base is None:
        raise InputError(f"{checkpoint.source} does not name its base")
    base = place.load(checkpoint.base, _revision(checkpoint))
    if base.sha256 == checkpoint.sha256:
        raise InputError(f"{checkpoint.source}: its base, {checkpoint.base}, has the same weights")
    return Voice(base, tuned.template)


def _revision(checkpoint: Pretrained) -> str | None:
    """The commit of the base: an adapter names it, a run folder knows it; None: the newest, or a folder."""
    if checkpoint.adapter:
        return checkpoint.adapter.revision
    summary = Path(checkpoint.source).parent / "summary.json"
    try:
        began = read_json(summary)["checkpoint"]
        return began["revision"] if began["source"] == checkpoint.base else None
    except (InputError, KeyError, TypeError):  # no run's
        return None
