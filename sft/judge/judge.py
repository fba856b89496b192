"""A judge: a language model on a server, that is asked about answers.

Each kind of server is a subclass in a file of its own. To add one: that file, its entry in JUDGES in `judging.py`, its
name in JudgeConfig in `sft/config/schema.py`, and a file in `conf/judge/`.
"""

import re
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sft.config.schema import JudgeConfig
from sft.errors import InputError
from sft.judge.client import Client, NoReplyError

Messages = list[dict[str, str]]
Request = dict[str, Any]

# How a reply in JSON is asked for. A server that refuses one form is asked in the next.
FORMS = ("json_schema", "json_object", "none")

# What servers say that refuse a form, with one of these codes. llama-cpp-python sends 500, old versions of Ollama 400
# ("cannot unmarshal object into Go struct field ChatRequest.format"), OpenRouter 404 ("No endpoints found that can
# handle the requested parameters").
FORM_REFUSED = re.compile(
    r"response_format|json_schema|json_object|\.format\b|for format|grammar|guided|requested parameters",
    re.IGNORECASE,
)
FORM_CODES = (400, 404, 415, 422, 500, 501)


@dataclass(frozen=True)
class Reply:
    """What a judge said, and what the server says about it."""

    text: str
    refused: bool
    done_reason: str | None
    prompt_tokens: int | None
    reply_tokens: int | None
    form: str | None = None  # of FORMS, in which it was asked for


class Judge(ABC):
    """A model on a server that was found to be there.

    Attributes:
        who: what tells this judge from another; with the request it decides a verdict.
        identity: for the summary: who, where, and how it is asked.
        form: of FORMS, in which the next reply is asked for.
        forms: of the judgements so far, how many were asked for in each form.
    """

    path: ClassVar[str]  # of the server's chat
    remedies: ClassVar[dict[int, str]]  # for HTTP codes that no other request would escape

    def __init__(self, config: JudgeConfig, key: str = "") -> None:
        assert config.url is not None
        assert config.model is not None
        self.config, self.model = config, config.model
        self.silent = 0  # questions in a row that had no reply
        self.form = FORMS[0] if config.schema else FORMS[-1]
        self.forms: Counter[str] = Counter()
        self.client = Client(config.url, config.timeout, config.retries, key)
        self.identity: dict[str, Any] = {
            "kind": config.kind,
            **self.look(),
            "url": self.client.url,
            "prompt": config.prompt,
            "mode": config.mode,
            "options": self.options(),
            "max_tokens": config.max_tokens,
        }
        self.who = {name: self.identity.get(name) for name in ("kind", "model", "digest")}

    @abstractmethod
    def look(self) -> dict[str, Any]:
        """What is to be known of the server and its model.

        Raises:
            InputError: one of them is not there.
        """

    def options(self) -> dict[str, Any]:
        return {"seed": self.config.seed, "temperature": 0}

    @abstractmethod
    def request(self, messages: Messages, schema: dict[str, Any] | None) -> Request:
        """All that decides the reply but who is asked: the body of a request, in the first form and without a limit.

        A limit that does not cut a reply does not change it, and one that was cut is asked for again.
        """

    @abstractmethod
    def body(self, request: Request, form: str) -> Request:
        """The body to be sent: the request in the given form, with the limit on the reply's tokens."""

    @abstractmethod
    def has_schema(self, request: Request) -> bool:
        """Whether the request asks for a reply in JSON."""

    @abstractmethod
    def read(self, body: Any) -> Reply:
        """The reply in the server's JSON; fails with one of BAD if there is none."""

    def size(self, request: Request) -> int:
        """Requests of the same size are sent one after the other."""
        return 0

    def ask(self, request: Request) -> Reply:
        """The judge's reply.

        Raises:
            NoReplyError: there is none.
            InputError: nor would there be one to any other request.
        """
        while True:
            form = self.form if self.has_schema(request) else FORMS[-1]
            body = self.body(request, form)
            try:
                return replace(
                    self.client.call("POST", self.path, body, self.read, final=_refuses_form),
                    form=form,
                )
            except NoReplyError as error:
                if not self.adapts(error, body, form):
                    self.stop_if_hopeless(error)
                    raise

    def adapts(self, error: NoReplyError, body: Request, form: str) -> bool:
        """Whether the server refused how it was asked, and is asked in another way from now on."""
        if form == FORMS[-1] or not _refuses_form(error):
            return False
        # Threads that were refused at the same time take the same step once.
        self.form = max(self.form, FORMS[FORMS.index(form) + 1], key=FORMS.index)
        return True

    def stop_if_hopeless(self, error: NoReplyError) -> None:
        code = error.code or 0
        if code in self.remedies or 300 <= code < 400:
            remedy = self.remedies.get(
                code, "the server has another address; give that as judge.url"
            )
            raise InputError(
                f"judge.url: {self.client.url}{self.path}: {error}; {remedy}"
            ) from error


def _refuses_form(error: NoReplyError) -> bool:
    return error.code in FORM_CODES and FORM_REFUSED.search(str(error)) is not None


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""


def count_of(value: Any) -> int | None:
    return value if type(value) is int else None
