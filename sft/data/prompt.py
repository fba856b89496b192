"""Prompt templates: the text with which the model is asked for a record's answer.

A template is Jinja over `messages`, a chat template as transformers has them. Its text ends where
the answer begins. A checkpoint carries the template itself, not its name; `sft/prompts.py` has the
named ones. Two other kinds occur:

- Checkpoints of earlier versions have a template with the variables `instruction` and `input`. It
  knows single instructions alone.
- A checkpoint of another program may have a chat template. `usable_template` makes a template
  of it.
"""

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import NoReturn, Protocol

import tiktoken
from jinja2 import StrictUndefined, Template, TemplateError, meta, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sft.data.records import Record, Turn
from sft.errors import InputError
from sft.prompts import PROMPTS

log = logging.getLogger(__name__)

SANDBOX = ImmutableSandboxedEnvironment(keep_trailing_newline=True, undefined=StrictUndefined)


class _Generation(Extension):
    """The block {% generation %}, which marks the answers to learn. It renders as its content."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


# Chat templates are written for transformers' environment (utils/chat_template_utils.py). There, a
# line break after a tag, blanks before it, and the last line break are left out.
CHATS = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
)
CHATS.filters["tojson"] = lambda value, indent=None: json.dumps(
    value, ensure_ascii=False, indent=indent
)
CHATS.globals["raise_exception"] = _raise
CHATS.globals["strftime_now"] = lambda form: datetime.now().strftime(form)

# The beginning of a template that was made of another program's chat template.
FOREIGN = "{# a chat template #}"

END = "<|endoftext|>"

# A message of a chat template.
Message = dict[str, str]


@lru_cache
def _compiled(template: str) -> Template:
    return (CHATS if is_chat(template) else SANDBOX).from_string(template)


@lru_cache
def is_chat(template: str) -> bool:
    """Whether a template renders messages, so that it can show earlier turns."""
    if template.startswith(FOREIGN):
        return True
    try:
        return "messages" in meta.find_undeclared_variables(CHATS.parse(template))
    except TemplateError:
        return False


class HasTemplates(Protocol):
    """A checkpoint with the templates in its files, such as `Pretrained`."""

    source: str
    prompt: str | None
    chat_template: str | None
    names: dict[str, str]


def template_of(checkpoint: HasTemplates) -> str | None:
    """Return the prompt template of a checkpoint; None if it has none that can be used."""
    return usable_template(
        checkpoint.source, checkpoint.prompt, checkpoint.chat_template, checkpoint.names
    )


def usable_template(
    source: str, prompt: str | None, chat: str | None = None, names: Mapping[str, str] | None = None
) -> str | None:
    """Return the template to use of those that a checkpoint has; None if it has none.

    A chat template that cannot be used is logged, and counts as none.

    Args:
        source: the checkpoint, for the log.
        prompt: the template with which this program tuned it. It is preferred.
        chat: its chat template.
        names: the special tokens by their names in the chat template, such as `bos_token`.
    """
    if prompt is not None or chat is None:
        return prompt

    # A line break after a tag is left out, so the chat template still begins a line.
    names = names or {}
    named = "".join(f"{{% set {name} = {json.dumps(text)} %}}\n" for name, text in names.items())
    template = f"{FOREIGN}\n{named}{chat}"
    try:
        around(template)
    except InputError as error:
        log.warning(
            f"warning: {source}: its chat template cannot be used for a single question ({error})"
        )
        return None

    return template


def render(template: str, record: Record) -> str:
    """Return the prompt of a record: the text before its answer.

    Raises:
        InputError: the template is not Jinja, uses an unknown variable, refuses the conversation,
            or fails otherwise.
    """
    if is_chat(template):
        return _render_chat(template, _messages(template, record))
    if record.before:
        raise InputError(_SINGLE if template else _PLAIN)

    # A template is code, and a checkpoint's was written by others, so it may raise anything.
    try:
        return _compiled(template).render(instruction=record.instruction, input=record.input)
    except Exception as error:
        raise InputError(
            f"prompt template: {error}; it may use the variables `instruction` and `input`"
        ) from error


_SINGLE = (
    "prompt template: the checkpoint's knows single instructions alone, and this is a conversation "
    "of several turns; give another, such as data.prompt=chatml"
)
_PLAIN = (
    "data.prompt: none is for plain text, and this is a conversation of several turns; give a "
    "template, such as data.prompt=chatml"
)


def _messages(template: str, record: Record) -> list[Message]:
    """Return the turns before the answer as a chat template takes them."""
    earlier = [{"role": turn.role, "content": turn.content} for turn in record.before]

    # Only our own templates know `input`.
    if template.startswith(FOREIGN):
        return [*earlier, {"role": "user", "content": record.question}]
    return [
        *earlier,
        {"role": "user", "content": record.instruction, "input": record.input},
    ]


def _render_chat(template: str, messages: list[Message]) -> str:
    # As in `render`, the template may raise anything.
    try:
        return _compiled(template).render(
            messages=messages, add_generation_prompt=True, tools=None, documents=None
        )
    except Exception as error:
        raise InputError(f"chat template: {error}") from error


def pick_template(name: str | None, own: str | None, source: str) -> tuple[str, str | None]:
    """Return the template to train with, and a note for the user; None: there is nothing to note.

    It is the named one, or the checkpoint's own, or else alpaca's. A named template is preferred to
    a text that earlier versions wrote for it, as it knows several turns.

    Args:
        name: data.prompt; None: the user named none.
        own: the checkpoint's template; None: it has none.
        source: the checkpoint, in the note.
    """
    if name is not None:
        given = PROMPTS[name]
        if not own or same_prompts(own, given):
            return given, None
        return given, (
            f"warning: data.prompt: {name}, but {source} has another template; "
            "leave it out to take that"
        )

    if not own:
        return PROMPTS["alpaca"], None
    template = next((text for text in PROMPTS.values() if same_prompts(own, text)), own)
    names = [known for known, text in PROMPTS.items() if text == template]
    return template, f"prompt template: {names[0] if names else 'its own'}, as {source} has it"


def same_prompts(first: str, second: str) -> bool:
    """Whether two templates give single instructions the same prompts."""
    probes = [Record("\ue000", "", ""), Record("\ue000", "\ue001", "")]
    try:
        return all(render(first, probe) == render(second, probe) for probe in probes)
    except InputError:
        return False


def chat_of(template: str, before: str | None) -> str | None:
    """Return the chat template of a model that was tuned in a prompt template; None: it has none.

    Args:
        before: the chat template of the checkpoint it was tuned from. It stays beside a prompt
            template that an earlier version wrote.
    """
    if is_chat(template):
        return template
    return before if template else None


def split_answers(template: str, record: Record) -> list[str]:
    """Return the text before each answer, the last answer included, in order.

    A text after an answer begins with what ends that answer, in our templates the end token.

    Raises:
        InputError: as in `render`, or the template does not show each earlier answer once.
    """
    earlier = earlier_answers(record)
    if not earlier:
        return [render(template, record)]

    mark = _unused(template, record)
    before = tuple(
        turn._replace(content=mark) if turn.role == "assistant" else turn for turn in record.before
    )
    texts = render(template, replace(record, before=before)).split(mark)
    if len(texts) != len(earlier) + 1:
        raise InputError("chat template: does not show each earlier answer once")
    return texts


def earlier_answers(record: Record) -> list[str]:
    """Return the answers before the last."""
    return [turn.content for turn in record.before if turn.role == "assistant"]


def _unused(template: str, record: Record) -> str:
    """Return a character that neither the template nor the record holds."""
    texts = "".join([template, *(turn.content for turn in record.turns)])
    return next(letter for letter in map(chr, range(0xE000, 0xF900)) if letter not in texts)


# As token ids


def prompt_tokens(template: str, record: Record, tokenizer: tiktoken.Encoding) -> list[int]:
    """Return the token ids of a record's prompt; errors are those of `render`.

    A special token that the template writes gets its id. The same letters in a message are text, as
    in all data. Otherwise a message could end its own turn. The ids are those that transformers'
    `apply_chat_template` gives.
    """
    if not is_chat(template):
        return tokenizer.encode_ordinary(render(template, record))
    special = SpecialTokens(tokenizer)
    hidden, mark = special.hide(template, record)
    return special.encode(render(template, hidden), mark)


def split_prompts(template: str, record: Record, special: "SpecialTokens") -> list[list[int]]:
    """Return the token ids of the texts that `split_answers` gives."""
    if not is_chat(template):
        return [special.tokenizer.encode_ordinary(render(template, record))]
    hidden, mark = special.hide(template, record)
    return [special.encode(text, mark) for text in split_answers(template, hidden)]


class SpecialTokens:
    """Tells the special tokens that a template writes from the same letters in a message.

    Attributes:
        tokenizer: the one whose special tokens they are.
    """

    def __init__(self, tokenizer: tiktoken.Encoding) -> None:
        self.tokenizer = tokenizer
        self.texts = sorted(tokenizer.special_tokens_set, key=len, reverse=True)
        self.known = re.compile(f"({'|'.join(map(re.escape, self.texts))})")

    def count(self, text: str) -> int:
        """Return how many special tokens a text spells."""
        return sum(1 for _ in self.known.finditer(text))

    def hide(self, template: str, record: Record) -> tuple[Record, str]:
        """Return the record with its special tokens hidden, and the mark around each of them.

        The mark is a character that occurs nowhere else. The output is left as it is.
        """
        mark = _unused(template, record)

        def hidden(text: str) -> str:
            return self.known.sub(lambda found: f"{mark}{self.texts.index(found[0])}{mark}", text)

        changed = replace(
            record,
            instruction=hidden(record.instruction),
            input=hidden(record.input),
            before=tuple(turn._replace(content=hidden(turn.content)) for turn in record.before),
        )
        return changed, mark

    def encode(self, text: str, mark: str) -> list[int]:
        """Return the token ids of a rendered text, in which the hidden tokens are text again."""

        def shown(found: re.Match[str]) -> str:
            return self.texts[int(found[1])]

        ids: list[int] = []
        for part in self.known.split(text):
            if part in self.tokenizer.special_tokens_set:
                ids += self.tokenizer.encode(part, allowed_special={part})
            else:
                plain = re.sub(f"{mark}([0-9]+){mark}", shown, part)
                ids += self.tokenizer.encode_ordinary(plain)
        return ids


# As a single message

# A character of the private use area, which no template contains.
_MARK = "\ue000"


def around(template: str) -> tuple[str, str]:
    """Return the texts before and after the instruction, for a record without an input.

    Raises:
        InputError: the prompt does not hold the instruction unchanged in exactly one place.
    """
    before, *after = render(template, Record(_MARK, "", "")).split(_MARK)
    if len(after) != 1:
        raise InputError(
            f"prompt template: holds the instruction {len(after)} times, "
            "expected once and unchanged"
        )
    return before, after[0]


def user_message(template: str, record: Record) -> str:
    """Return the chat message whose prompt is the record's: its instruction, then its input.

    Raises:
        InputError: no message gives it, since the template begins otherwise for a record with an
            input.
    """
    before, after = around(template)
    prompt = render(template, record)
    message = prompt.removeprefix(before).removesuffix(after)
    if render(template, Record(message, "", "")) != prompt:
        raise InputError(
            "prompt template: no chat message gives the prompt of a record with an input; "
            "send plain text"
        )
    return message


# As the texts between messages


@dataclass(frozen=True)
class Gaps:
    """The texts between the messages of a conversation, by the roles on both sides."""

    start_system: str
    start_user: str
    system_user: str
    user_answer: str
    answer_user: str

    def join(self, record: Record) -> str:
        """Return the prompt of a conversation, without its input."""
        text = ""
        before = "start"
        for turn in record.turns[:-1]:
            role = "answer" if turn.role == "assistant" else turn.role
            text += getattr(self, f"{before}_{role}") + turn.content
            before = role
        return text + self.user_answer


def conversation_gaps(template: str) -> Gaps:
    """Return the texts that a template writes between messages.

    They are read off one conversation. Others of one to three questions are checked against them.

    Raises:
        InputError: the template cannot render such a conversation, or its texts depend on more than
            the roles of the two neighbours.
    """
    system = Turn("system", "\ue001")
    turns = (Turn("user", "\ue002"), Turn("assistant", "\ue003"))

    texts = re.split(
        "[\ue000-\ue003]", render(template, Record(_MARK, "", "", before=(system, *turns)))
    )
    if len(texts) != 5:
        raise InputError("chat template: does not show each message once")
    start_system, system_user, user_answer, answer_user, _ = texts
    start_user, _ = around(template)
    gaps = Gaps(start_system, start_user, system_user, user_answer, answer_user)

    for earlier in range(3):
        for first in ((), (system,)):
            record = Record(_MARK, "", "", before=(*first, *(turns * earlier)))
            if gaps.join(record) != render(template, record):
                raise InputError(
                    "chat template: the text between two messages depends on more than their roles"
                )
    return gaps
