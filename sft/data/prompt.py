"""Prompt templates: how a record is put to the model.

A template is Jinja text with the variables `instruction` and `input`, as chat templates on the hub are; what it
renders ends where the answer begins. The text, not its name, travels with a checkpoint. Those with a name
are in `sft.config.PROMPTS`.
"""

from functools import lru_cache

from jinja2 import StrictUndefined, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sft.config import InputError
from sft.data.records import Record


@lru_cache
def _compiled(template: str) -> Template:
    sandbox = ImmutableSandboxedEnvironment(keep_trailing_newline=True, undefined=StrictUndefined)
    return sandbox.from_string(template)


def render(template: str, record: Record) -> str:
    """The prompt of a record: all that comes before its answer.

    Raises:
        InputError: the template is no Jinja, asks for something that a record does not have, or fails otherwise.
    """
    try:
        return _compiled(template).render(instruction=record.instruction, input=record.input)
    except Exception as error:  # a template is code, and that of a checkpoint was written elsewhere
        raise InputError(f"prompt template: {error}; it may use the variables `instruction` and `input`") from error
