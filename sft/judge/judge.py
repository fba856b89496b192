"""A judge: a language model on a server, which is asked about answers.

Each kind of server is a subclass in a file of its own. To add one: that file, its line in `JUDGES`
in `sft/config/schema.py`, and a file in `conf/judge/`.
"""

import logging
import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from sft.config.schema import JudgeConfig
from sft.errors import InputError
from sft.judge.client import Client, NoReplyError

log = logging.getLogger("sft")

Messages = list[dict[str, str]]
Request = dict[str, Any]

# The forms in which a request may ask for a reply: the probabilities of its first token, JSON by a
# schema, any JSON, or text. A server that refuses one is asked in the next.
FORMS = ("probabilities", "json_schema", "json_object", "none")

# Asks for the probabilities of the likeliest tokens: as many as OpenAI and vLLM give.
PROBABILITIES = {"logprobs": True, "top_logprobs": 20}

# A server that refuses a form answers with one of these codes, and a text that matches. Here,
# llama-cpp-python sends 500. Old versions of Ollama send 400 and "cannot unmarshal object into Go
# struct field ChatRequest.format". OpenRouter sends 404 and "No endpoints found that can handle the
# requested parameters".
FORM_CODES = (400, 404, 415, 422, 500, 501)
FORM_REFUSED = re.compile(
    r"response_format|json_schema|json_object|\.format\b|for format|grammar|guided"
    r"|requested parameters|logprobs",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Reply:
    """The text of a judge's reply, and the server's numbers.

    `first` holds the probabilities of the likeliest first tokens, if the server gave them. `form`
    is the one of the request.
    """

    text: str
    refused: bool
    done_reason: str | None
    prompt_tokens: int | None
    reply_tokens: int | None
    first: dict[str, float] | None = None
    form: str | None = None


class Judge(ABC):
    """A model on a server that was found to be there.

    A subclass sets `path`, the address of the server's chat; `json_key`, the key of a request that
    asks for JSON; and `remedies`, by HTTP code: the remedy for an error that every other request
    would meet, too.

    Attributes:
        fingerprint: tells this judge from another; with the request it decides a judgement.
        identity: for the summary: which judge it is, where, and how it is asked.
        form: of FORMS; the one in which the next request asks.
        forms: how many of the judgements so far were asked for in each form.
        silent: how many questions in a row had no reply.
    """

    path: ClassVar[str]
    json_key: ClassVar[str]
    remedies: ClassVar[dict[int, str]]

    def __init__(self, config: JudgeConfig, key: str = "") -> None:
        assert config.url is not None
        assert config.model is not None
        self.config = config
        self.model = config.model
        self.form = FORMS[0]
        self.forms: Counter[str] = Counter()
        self.silent = 0
        self.client = Client(config.url, config.timeout, config.retries, key)
        self.identity: dict[str, Any] = {
            "kind": config.kind,
            **self.inspect(),
            "url": self.client.url,
            "prompt": config.prompt,
            "mode": config.mode,
            "options": self.options(),
            "max_tokens": config.max_tokens,
        }
        self.fingerprint = {name: self.identity.get(name) for name in ("kind", "model", "digest")}

    @abstractmethod
    def inspect(self) -> dict[str, Any]:
        """Return what the server says of itself and of its model.

        Raises:
            InputError: one of them is missing.
        """

    def options(self) -> dict[str, Any]:
        """Return the options of sampling: as repeatable as a server can be."""
        return {"seed": self.config.seed, "temperature": 0}

    @abstractmethod
    def request(
        self, messages: Messages, schema: dict[str, Any] | None, one_word: bool = False
    ) -> Request:
        """Return the body of a request, in all forms at once and without a limit on the reply.

        It holds all that decides a reply, except which judge is asked. The limit does not belong to
        that: it changes only replies that reach it, and those are asked for again.

        Args:
            one_word: whether the first token is the whole reply, so that its probabilities are
                requested.
        """

    @abstractmethod
    def body(self, request: Request, form: str) -> Request:
        """Return the body to be sent: the request in the given form, with the limit."""

    def forms_of(self, request: Request) -> list[str]:
        """Return the forms in which the request can be sent."""
        forms = ["probabilities"] if "logprobs" in request else []
        if self.json_key in request:
            forms += ["json_schema", "json_object"]
        return [*forms, "none"]

    def in_form(self, request: Request, form: str) -> Request:
        """Return a copy of the request without the keys of other forms."""
        others = set() if form == "probabilities" else set(PROBABILITIES)
        if not form.startswith("json"):
            others.add(self.json_key)
        return {key: value for key, value in request.items() if key not in others}

    def limit(self, form: str) -> int:
        """Return the most tokens of a reply."""
        return 1 if form == "probabilities" else self.config.max_tokens

    @abstractmethod
    def read(self, body: Any) -> Reply:
        """Return the reply in the server's JSON. If it has no reply, an error of BAD is raised."""

    def size(self, request: Request) -> int:
        """Return the sort key of a request. Requests of the same size are sent in a row."""
        return 0

    def ask(self, request: Request) -> Reply:
        """Return the judge's reply.

        Raises:
            NoReplyError: the judge gave no reply.
            InputError: any other request would fail in the same way.
        """
        while True:
            # The last form is that of every request.
            forms = self.forms_of(request)
            form = next(form for form in forms if FORMS.index(form) >= FORMS.index(self.form))
            body = self.body(request, form)
            try:
                reply = self.client.call("POST", self.path, body, self.read, final=_refuses_form)
            except NoReplyError as error:
                if not self.adapts(error, body, form):
                    self.stop_if_hopeless(error)
                    raise
                continue

            # A server that does not know the keys of probabilities leaves them out.
            if form != "probabilities" or reply.first is not None:
                return replace(reply, form=form)
            self.step_down(form)

    def adapts(self, error: NoReplyError, body: Request, form: str) -> bool:
        """Return whether the server refused the way it was asked; if so, change it from now on."""
        if form == FORMS[-1] or not _refuses_form(error):
            return False

        self.step_down(form)
        return True

    def step_down(self, form: str) -> None:
        """Ask in the next form from now on."""
        # Threads that were refused at the same time take the same step once.
        following = FORMS[FORMS.index(form) + 1]
        if form == "probabilities" and self.form == form:
            log.warning(
                f"judge: {self.client.url} gives no probabilities of tokens; the scores are read "
                "from its replies, which is coarser"
            )
        self.form = max(self.form, following, key=FORMS.index)

    def stop_if_hopeless(self, error: NoReplyError) -> None:
        """Raise InputError if every other request would meet this error, too."""
        code = error.code or 0
        remedy = self.remedies.get(code)
        if remedy is None and 300 <= code < 400:
            remedy = "the server has another address; give that as judge.url"
        if remedy is not None:
            where = self.client.url + self.path
            raise InputError(f"judge.url: {where}: {error}; {remedy}") from error


def _refuses_form(error: NoReplyError) -> bool:
    return error.code in FORM_CODES and FORM_REFUSED.search(str(error)) is not None


def first_token(tokens: Any) -> dict[str, float] | None:
    """Return the probabilities of the likeliest first tokens in a server's JSON; None without.

    OpenAI and Ollama write a list of the reply's tokens, each with its `top_logprobs`.
    """
    try:
        likeliest = tokens[0]["top_logprobs"]
        found = [(str(one["token"]), math.exp(one["logprob"])) for one in likeliest]
    except (LookupError, TypeError, OverflowError):
        return None
    return dict(found) or None


def text_of(value: Any) -> str:
    """Return a text from a server's JSON; an empty one for any other value."""
    return value if isinstance(value, str) else ""


def count_of(value: Any) -> int | None:
    """Return a number from a server's JSON; None for any other value."""
    return value if type(value) is int else None
