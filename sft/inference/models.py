"""The models that answer: a tuned one, and its base, which is asked in the tuned one's template."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tiktoken
import torch

from sft.checkpoint.base import base_of
from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.checkpoint.weights import skeleton
from sft.data.prompt import prompt_tokens, template_of
from sft.data.records import Record, Role, Turn
from sft.device import DTYPES, pick_answer_precision, pick_device
from sft.errors import InputError
from sft.gpt2.frozen import freeze
from sft.gpt2.model import GPT
from sft.prompts import PROMPTS

log = logging.getLogger(__name__)


class TooLongError(InputError):
    """A prompt leaves no room for an answer in the model's context."""


@dataclass(frozen=True)
class Placement:
    """The device and the precision in which models are computed, by Lightning's names."""

    device: str
    precision: str

    @classmethod
    def pick(cls, device: str, precision: str) -> "Placement":
        """Resolve `auto` for this machine."""
        device = pick_device(device)
        return cls(device, pick_answer_precision(precision, device))

    def load(self, name: str | Path, revision: str | None = None) -> Pretrained:
        """Load a checkpoint for inference.

        Raises:
            InputError: it cannot be loaded, or a weight is NaN or infinite in this precision.
        """
        found = load_pretrained(name, revision, dtype=DTYPES[self.precision], device=self.device)
        found.model.eval()
        check_finite(found)
        return found

    def freeze(self, *chat_models: "ChatModel") -> None:
        """Bring models into the form in which they answer fastest, or into int8, in place."""
        freeze(*(one.model for one in chat_models), int8=self.precision == "int8")


def check_finite(checkpoint: Pretrained) -> None:
    """Check the weights in memory. One that is NaN or infinite makes every answer repeat one token.

    Raises:
        InputError: a tensor, which the message names, holds NaN or infinity.
    """
    for name, tensor in checkpoint.model.state_dict().items():
        # A sum is one pass without memory of its own. Huge finite values can overflow it, so then
        # each is tested.
        if torch.isfinite(tensor.sum(dtype=torch.float32)) or torch.isfinite(tensor).all():
            continue
        bad = int((~torch.isfinite(tensor)).sum())
        where = f"{checkpoint.source}: tensor {name!r}"

        # The weights in the file tell whether the precision is at fault, or the checkpoint.
        if torch.isfinite(checkpoint.read(name)).all():
            raise InputError(
                f"{where}: {bad:,} weights are too large for {tensor.dtype}; give --precision 32"
            )
        share = f"{bad:,} of {tensor.numel():,} weights"
        raise InputError(f"{where}: {share} are NaN or infinite; use another checkpoint")


@dataclass(frozen=True)
class ChatModel:
    """A checkpoint in memory, with the template that turns an instruction into its prompt.

    Attributes:
        takes_earlier_turns: whether it may be shown earlier turns, by the function of this name.
    """

    checkpoint: Pretrained
    template: str
    takes_earlier_turns: bool = False

    @property
    def model(self) -> GPT:
        return self.checkpoint.model

    @property
    def tokenizer(self) -> tiktoken.Encoding:
        return self.checkpoint.tokenizer

    @property
    def context(self) -> int:
        """The most tokens that prompt and answer may have together."""
        return self.model.config.n_positions

    def prompt(
        self, instruction: str, input: str = "", earlier: Sequence[tuple[Role, str]] = ()
    ) -> list[int]:
        """Return the token ids of a prompt.

        Args:
            earlier: roles and texts of the turns before, for a model that `takes_earlier_turns`.

        Raises:
            TooLongError: the prompt leaves no room for an answer.
            InputError: the template makes an empty text of it.
        """
        before = tuple(Turn(role, text) for role, text in earlier)
        record = Record(instruction, input, "", before=before)
        prompt = prompt_tokens(self.template, record, self.tokenizer)
        if not prompt:
            raise InputError("the question, in the model's template, is an empty text")
        if len(prompt) >= self.context:
            raise TooLongError(
                f"{len(prompt)} tokens leave no room in the model's context of {self.context}"
            )
        return prompt

    def prompt_that_fits(
        self, instruction: str, input: str, earlier: Sequence[tuple[Role, str]], answer_tokens: int
    ) -> tuple[list[int], int]:
        """Return a prompt without the oldest turns, if they do not fit, and how many are left out.

        A question is left out together with its answer. What the system said stays.

        Args:
            answer_tokens: the room that the answer should have. A quarter of the context is enough.

        Raises:
            TooLongError: the question alone leaves no room for an answer.
            InputError: as `prompt`.
        """
        room = min(answer_tokens, self.context // 4)
        system = [turn for turn in earlier if turn[0] == "system"]
        turns = [turn for turn in earlier if turn[0] != "system"]
        while True:
            try:
                prompt = self.prompt(instruction, input, system + turns)
                if not turns or len(prompt) + room <= self.context:
                    return prompt, len(earlier) - len(system) - len(turns)
            except TooLongError:
                if not turns:
                    raise
            users = [place for place, (role, _) in enumerate(turns) if role == "user" and place]
            turns = turns[users[0] :] if users else []

    def __str__(self) -> str:
        # A frozen model has no parameters for its layers.
        parameters = sum(one.numel() for one in skeleton(self.model.config).parameters())
        return f"{self.checkpoint.source}, {parameters / 1e6:,.0f}M parameters"


def load_tuned(name: str, placement: Placement) -> ChatModel:
    """Load the model of a run, of a Hugging Face folder, or of a repository of the hub.

    Raises:
        InputError: it cannot be loaded, or it was trained on plain text, without a template.
    """
    found = placement.load(name)
    template = template_of(found)
    several_turns = takes_earlier_turns(found, template)
    if template is None:
        log.warning(f"warning: {found.source} names no prompt template; it is asked in alpaca's")
        template = PROMPTS["alpaca"]
    if not template:
        raise InputError(f"{found.source}: trained on plain text, without a template to ask it in")
    return ChatModel(found, template, several_turns)


def takes_earlier_turns(checkpoint: Pretrained, template: str | None) -> bool:
    """Whether a model may be shown the earlier turns of a conversation.

    A chat template of another program is made for several turns. Of a model in one of our own
    templates, the checkpoint says whether it was tuned on them.

    Args:
        template: the checkpoint's, by `template_of`.
    """
    return checkpoint.conversations or (checkpoint.prompt is None and template is not None)


def load_base(tuned: ChatModel, placement: Placement) -> ChatModel:
    """Load the model that another was tuned from, with the template of the tuned one.

    Raises:
        InputError: the tuned model names no base, the base cannot be loaded, or it has the same
            weights.
    """
    base = base_of(tuned.checkpoint, placement.load)
    return replace(tuned, checkpoint=base)


def share_weights(model: GPT, others: Sequence[GPT]) -> float:
    """Make a model use the weights of others wherever they are equal, in place.

    Adapters of one base differ from it in a few matrices alone.

    Returns:
        The share of the model's weights that takes no more memory.
    """
    shared = 0
    theirs = [dict(other.named_parameters()) for other in others]
    for name, parameter in model.named_parameters():
        for other in theirs:
            same_shape = name in other and other[name].shape == parameter.shape
            if same_shape and torch.equal(other[name], parameter):
                parameter.data = other[name].data
                shared += parameter.numel()
                break
    return shared / sum(parameter.numel() for parameter in model.parameters())
