"""A judge: a language model on a server, that is asked about answers.

Each kind of server is a subclass in a file of its own. To add one: that file, its entry in JUDGES in `judging.py`, its
name in JudgeConfig in `sft/config/schema.py`, and a file in `conf/judge/`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from sft.config import InputError, JudgeConfig
from sft.evaluation.client import Client, NoReplyError

Messages = list[dict[str, str]]
Request = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """What a judge said, and what the server says about it."""

    text: str
    refused: bool
    done_reason: str | None
    prompt_tokens: int | None
    reply_tokens: int | None


class Judge(ABC):
    """A model on a server that was found to be there.

    Attributes:
        who: what tells this judge from another; with the request it decides a verdict.
        identity: for the summary: who, where, and how it is asked.
    """

    path: ClassVar[str]  # of the server's chat
    remedies: ClassVar[dict[int, str]]  # for HTTP codes that no other request would escape

    def __init__(self, config: JudgeConfig, key: str = "") -> None:
        assert config.url is not None
        assert config.model is not None
        self.config, self.model = config, config.model
        self.silent = 0  # questions in a row that had no reply
        self.client = Client(config.url, config.timeout, config.retries, key)
        self.identity: dict[str, Any] = {
            "kind": config.kind,
            **self.look(),
            "url": self.client.url,
            "prompt": config.prompt,
            "mode": config.mode,
            "options": self.options(),
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
        """The body of a request, which holds all that decides the reply but who is asked."""

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
        try:
            return self.client.call("POST", self.path, request, self.read)
        except NoReplyError as error:
            self.stop_if_hopeless(error)
            raise

    def stop_if_hopeless(self, error: NoReplyError) -> None:
        code = error.code or 0
        if code in self.remedies or 300 <= code < 400:
            remedy = self.remedies.get(code, "the server has another address; give that as judge.url")
            raise InputError(f"judge.url: {self.client.url}{self.path}: {error}; {remedy}") from error


def text_of(value: Any) -> str:
    return value if isinstance(value, str) else ""


def count_of(value: Any) -> int | None:
    return value if type(value) is int else None
