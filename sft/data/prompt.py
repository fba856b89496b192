"""Prompt templates: the text with which the model is asked for a record's answer.

A template is Jinja with the variables `instruction` and `input`. Its text ends where the answer
begins. A checkpoint carries the template itself, not its name; `sft/prompts.py` has the named ones.

A checkpoint of another program may have a chat template instead. `template_of` makes a template of
it, which renders a record as a single user message.
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

# The beginning of a template that was made of a chat template.
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
    """Return the prompt template of a checkpoint; None if it has none.

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
    template = f"{CHAT}\n{named}{chat}"
    try:
        around(template)
    except InputError as error:
        log.warning(
            f"warning: {source}: its chat template cannot be used for a single question ({error})"
        )
        return None

    # TODO: stop at the end token that the checkpoint names. Decoding and training know only one.
    end = names.get("eos_token", END)
    if end != END:
        log.warning(
            f"warning: {source}: its turns end with {end!r}, "
            f"but answers end only at {END!r} or at their limit"
        )
    return template


def render(template: str, record: Record) -> str:
    """Return the prompt of a record: the text before its answer.

    Raises:
        InputError: the template is not Jinja, uses an unknown variable, or fails otherwise.
    """
    if is_chat(template):
        return render_chat(template, [("user", message_of(record))])

    # A template is code, and a checkpoint's was written by others, so it may raise anything.
    try:
        return _compiled(template).render(instruction=record.instruction, input=record.input)
    except Exception as error:
        raise InputError(
            f"prompt template: {error}; it may use the variables `instruction` and `input`"
        ) from error


def message_of(record: Record) -> str:
    """Return a record as the user message of a chat template: the instruction, then the input."""
    return f"{record.instruction}\n\n{record.input}" if record.input else record.instruction


def render_chat(template: str, turns: Sequence[tuple[str, str]]) -> str:
    """Return the prompt of a conversation.

    Args:
        template: made of a chat template.
        turns: roles and texts.

    Raises:
        InputError: the template is not Jinja, refuses the conversation, or fails otherwise.
    """
    messages = [{"role": role, "content": text} for role, text in turns]

    # As in `render`, the template may raise anything.
    try:
        return _compiled(template).render(
            messages=messages, add_generation_prompt=True, tools=None, documents=None
        )
    except Exception as error:
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

    A special token that the template writes gets its id. The same letters in a message are text, as
    in all data. Otherwise a message could end its own turn.
    """
    special = sorted(tokenizer.special_tokens_set, key=len, reverse=True)
    known = re.compile(f"({'|'.join(map(re.escape, special))})")

    # In messages, hide the letters of special tokens behind a character that occurs nowhere.
    texts = "".join([template, *(text for _, text in turns)])
    mark = next(letter for letter in map(chr, range(0xE000, 0xF900)) if letter not in texts)

    def hidden(text: str) -> str:
        return known.sub(lambda found: f"{mark}{special.index(found[0])}{mark}", text)

    rendered = render_chat(template, [(role, hidden(text)) for role, text in turns])

    # The special tokens that are left are the template's. In the other parts, show the hidden ones.
    ids: list[int] = []
    for part in known.split(rendered):
        if part in tokenizer.special_tokens_set:
            ids += tokenizer.encode(part, allowed_special={part})
        else:
            shown = re.sub(f"{mark}([0-9]+){mark}", lambda found: special[int(found[1])], part)
            ids += tokenizer.encode_ordinary(shown)
    return ids


# As a chat

# A character of the private use area, which no template contains.
_MARK = "\ue000"

_MESSAGE = (
    "{% set instruction = "
    "(messages | selectattr('role', 'equalto', 'user') | list | last)['content'] %}"
)


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
        InputError: there is none, since the template begins otherwise for a record with an input.
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


def chat_template(template: str) -> str:
    """Return a template as a chat template, with the last user message for the instruction.

    Programs that render it may leave out line breaks after a tag and blanks before it (Jinja's
    `trim_blocks` and `lstrip_blocks`), and the last line break. Such text is written as an
    expression, which they keep.

    Raises:
        InputError: the template is not Jinja.
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
    """Yield Jinja's tokens without comments and without the blanks that tags like `{%-` strip."""
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
    """Yield a piece of text, with the blanks at its ends as expressions where a tag is near."""
    inner = text.lstrip() if behind_tag and text.startswith("\n") else text
    if inner != text:
        yield _expression(text[: len(text) - len(inner)])
    bare = inner.rstrip() if before_tag else inner
    yield bare
    if bare != inner:
        yield _expression(inner[len(bare) :])


def _expression(text: str) -> str:
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"
