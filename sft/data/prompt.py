"""Prompt templates: how a record is put to the model.

A template is Jinja text with the variables `instruction` and `input`, as chat templates on the hub are; what it
renders ends where the answer begins. The text, not its name, travels with a checkpoint. Those with a name
are in `sft.config.PROMPTS`.

A checkpoint of another program may have a chat template instead. `template_of` makes a template of it, which renders a
record as one message of the user.
"""

import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import NoReturn

import tiktoken
from jinja2 import StrictUndefined, Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sft.data.records import Record
from sft.errors import InputError

log = logging.getLogger(__name__)

SANDBOX = ImmutableSandboxedEnvironment(keep_trailing_newline=True, undefined=StrictUndefined)


# Chat templates are written for transformers' environment (utils/chat_template_utils.py), in which a line break behind
# a tag, spaces before it and the last line break do not count.
class _Generation(Extension):
    """The block {% generation %}, which marks what a model learns and renders as what it holds."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


CHATS = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
)
CHATS.filters["tojson"] = lambda value, indent=None: json.dumps(
    value, ensure_ascii=False, indent=indent
)
CHATS.globals["raise_exception"] = _raise
CHATS.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
CHAT = "{# a chat template #}"
END = "<|endoftext|>"


@lru_cache
def _compiled(template: str) -> Template:
    return (CHATS if is_chat(template) else SANDBOX).from_string(template)


def is_chat(template: str) -> bool:
    """Whether a template was made of a chat template."""
    return template.startswith(CHAT)


def template_of(
    source: str, prompt: str | None, chat: str | None = None, names: Mapping[str, str] | None = None
) -> str | None:
    """Return the template that a checkpoint is asked in; None if it has none that can be used, which is logged.

    Args:
        source: the checkpoint, for the log.
        prompt: the template it was tuned with here, which comes first.
        chat: its chat template.
        names: what the chat template calls special tokens (`bos_token`), and their texts.
    """
    if prompt is not None or chat is None:
        return prompt
    # Line breaks behind these tags do not count, so the chat template still begins at the beginning of a line.
    named = "".join(
        f"{{% set {name} = {json.dumps(text)} %}}\n" for name, text in (names or {}).items()
    )
    template = f"{CHAT}\n{named}{chat}"
    try:
        around(template)
    except InputError as error:
        log.warning(
            f"warning: {source}: its chat template cannot be used for a single question ({error})"
        )
        return None
    # TODO: stop at the token that the checkpoint names; today decoding and training know one end token alone.
    end = (names or {}).get("eos_token", END)
    if end != END:
        log.warning(
            f"warning: {source}: its turns end with {end!r}, but answers end at {END!r} or at their limit alone"
        )
    return template


def render(template: str, record: Record) -> str:
    """The prompt of a record: all that comes before its answer.

    Raises:
        InputError: the template is no Jinja, asks for something that a record does not have, or fails otherwise.
    """
    if is_chat(template):
        return render_chat(template, [("user", message_of(record))])
    try:
        return _compiled(template).render(instruction=record.instruction, input=record.input)
    except Exception as error:  # a template is code, and that of a checkpoint was written elsewhere
        raise InputError(
            f"prompt template: {error}; it may use the variables `instruction` and `input`"
        ) from error


def message_of(record: Record) -> str:
    """Return the one message that a model with a chat template of its own is asked: the instruction, then the input."""
    return f"{record.instruction}\n\n{record.input}" if record.input else record.instruction


def render_chat(template: str, turns: Sequence[tuple[str, str]]) -> str:
    """Return the prompt of a conversation, by a template that was made of a chat template.

    Args:
        turns: roles and texts.

    Raises:
        InputError: the template is no Jinja, refuses the conversation, or fails otherwise.
    """
    messages = [{"role": role, "content": text} for role, text in turns]
    try:
        return _compiled(template).render(
            messages=messages, add_generation_prompt=True, tools=None, documents=None
        )
    except Exception as error:  # a template is code, and that of a checkpoint was written elsewhere
        raise InputError(f"chat template: {error}") from error


def prompt_tokens(template: str, record: Record, tokenizer: tiktoken.Encoding) -> list[int]:
    """Return the token ids of a record's prompt; errors are those of `render`."""
    if is_chat(template):
        return chat_tokens(template, [("user", message_of(record))], tokenizer)
    return tokenizer.encode_ordinary(render(template, record))


def chat_tokens(
    template: str, turns: Sequence[tuple[str, str]], tokenizer: tiktoken.Encoding
) -> list[int]:
    """Return the token ids of a conversation.

    A special token that the template writes gets its id. In a message the same letters are text, as in all data: else
    a message could end the turn that it stands in.
    """
    special = sorted(tokenizer.special_tokens_set, key=len, reverse=True)
    known = re.compile(f"({'|'.join(map(re.escape, special))})")
    texts = "".join([template, *(text for _, text in turns)])
    mark = next(letter for letter in map(chr, range(0xE000, 0xF900)) if letter not in texts)

    def hidden(text: str) -> str:
        return known.sub(lambda found: f"{mark}{special.index(found[0])}{mark}", text)

    rendered = render_chat(template, [(role, hidden(text)) for role, text in turns])
    ids: list[int] = []
    for part in known.split(rendered):
        if part in tokenizer.special_tokens_set:
            ids += tokenizer.encode(part, allowed_special={part})
        else:
            shown = re.sub(f"{mark}([0-9]+){mark}", lambda found: special[int(found[1])], part)
            ids += tokenizer.encode_ordinary(shown)
    return ids


# As a chat

_MARK = "\ue000"  # of the private use area, where no template has text
_MESSAGE = "{% set instruction = (messages | selectattr('role', 'equalto', 'user') | list | last)['content'] %}"


def around(template: str) -> tuple[str, str]:
    """What stands before and after the instruction of a record without an input.

    Raises:
        InputError: the instruction does not stand in one place, as it is.
    """
    before, *after = render(template, Record(_MARK, "", "")).split(_MARK)
    if len(after) != 1:
        raise InputError(
            f"prompt template: holds the instruction {len(after)} times, expected once and as it is"
        )
    return before, after[0]


def user_message(template: str, record: Record) -> str:
    """The chat message that gives the record's prompt: its instruction, and its input as the template appends it.

    Raises:
        InputError: there is none, since with an input the template has another text before the instruction too.
    """
    (before, after), prompt = around(template), render(template, record)
    message = prompt.removeprefix(before).removesuffix(after)
    if render(template, Record(message, "", "")) != prompt:
        raise InputError(
            "prompt template: no chat message gives the prompt of a record with an input; send plain text"
        )
    return message


def chat_template(template: str) -> str:
    """The template as chat templates on the hub are: the user's last message stands where the instruction does.

    Those who render it may leave out line ends behind and spaces before a tag (Jinja's `trim_blocks` and
    `lstrip_blocks`) and the last line end of all. Text in such a place is written as an expression, so nobody does.

    Raises:
        InputError: the template is no Jinja.
    """
    tokens = list(_tokens(template))
    kinds = ["block_end", *(kind for kind, _ in tokens), "block_begin"]
    texts = [_MESSAGE, "{% set input = '' %}"]
    for (kind, text), before, after in zip(tokens, kinds, kinds[2:], strict=False):
        if kind == "raw":
            texts.append(_expression(text))
        elif kind == "data":
            texts += _kept(text, before == "block_end", after == "block_begin")
        else:
            texts.append(text)
    return "".join(texts)


def _tokens(template: str) -> Iterator[tuple[str, str]]:
    """Jinja's tokens without its comments; white space that a template itself strips (`{%-`) is gone already."""
    raw = False
    try:
        for _, kind, text in SANDBOX.lex(template):
            if kind in ("raw_begin", "raw_end"):
                raw = kind == "raw_begin"
            elif not kind.startswith("comment"):
                yield "raw" if raw else kind, text
    except TemplateError as error:
        raise InputError(f"prompt template: {error}") from error


def _kept(text: str, behind_tag: bool, before_tag: bool) -> Iterator[str]:
    """A piece of text, with the white space at its ends as expressions where a tag is next to it."""
    inner = text.lstrip() if behind_tag and text.startswith("\n") else text
    if inner != text:
        yield _expression(text[: len(text) - len(inner)])
    bare = inner.rstrip() if before_tag else inner
    yield bare
    if bare != inner:
        yield _expression(inner[len(bare) :])


def _expression(text: str) -> str:
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"
