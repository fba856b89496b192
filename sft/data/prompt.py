"""Prompt templates: how a record is put to the model.

A template is Jinja text with the variables `instruction` and `input`, as chat templates on the hub are; what it
renders ends where the answer begins. The text, not its name, travels with a checkpoint. Those with a name
are in `sft.config.PROMPTS`.
"""

import json
from collections.abc import Iterator
from functools import lru_cache

from jinja2 import StrictUndefined, Template, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sft.config import InputError
from sft.data.records import Record

SANDBOX = ImmutableSandboxedEnvironment(keep_trailing_newline=True, undefined=StrictUndefined)


@lru_cache
def _compiled(template: str) -> Template:
    return SANDBOX.from_string(template)


def render(template: str, record: Record) -> str:
    """The prompt of a record: all that comes before its answer.

    Raises:
        InputError: the template is no Jinja, asks for something that a record does not have, or fails otherwise.
    """
    try:
        return _compiled(template).render(instruction=record.instruction, input=record.input)
    except Exception as error:  # a template is code, and that of a checkpoint was written elsewhere
        raise InputError(f"prompt template: {error}; it may use the variables `instruction` and `input`") from error


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
        raise InputError(f"prompt template: holds the instruction {len(after)} times, expected once and as it is")
    return before, after[0]


def user_message(template: str, record: Record) -> str:
    """The chat message that gives the record's prompt: its instruction, and its input as the template appends it.

    Raises:
        InputError: there is none, since with an input the template has another text before the instruction too.
    """
    (before, after), prompt = around(template), render(template, record)
    message = prompt.removeprefix(before).removesuffix(after)
    if render(template, Record(message, "", "")) != prompt:
        raise InputError("prompt template: no chat message gives the prompt of a record with an input; send plain text")
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
