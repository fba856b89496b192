"""The judge on a server with OpenAI's chat completions: vLLM, llama.cpp, LM Studio, OpenAI itself.

The key, where one is needed, comes from the environment.
"""

import os
import re
from typing import Any, ClassVar

from sft.config.schema import JudgeConfig
from sft.errors import InputError
from sft.judge.client import NoReplyError
from sft.judge.judge import (
    PROBABILITIES,
    Judge,
    Messages,
    Reply,
    Request,
    count_of,
    first_token,
    text_of,
)


class OpenAI(Judge):
    """A model on a server of OpenAI's kind.

    `limit_key` is its name for the limit on a reply's tokens.

    OpenAI's reasoning models take `max_completion_tokens` alone, other servers `max_tokens`.
    """

    path = "/chat/completions"
    json_key = "response_format"
    remedies: ClassVar = {
        401: "put the right key into OPENAI_API_KEY",
        403: "put the right key into OPENAI_API_KEY",
        404: "is this the model's name, and does judge.url go up to /v1?",
    }

    def __init__(self, config: JudgeConfig) -> None:
        key = os.environ.get("OPENAI_API_KEY", "").strip()

        # The error that requests would raise shows the key.
        if not re.fullmatch("[!-~]*", key):
            raise InputError("OPENAI_API_KEY: holds characters that no key has; set it again")
        self.limit_key = "max_tokens"
        super().__init__(config, key)

        # There is no digest by which to know the model.
        self.fingerprint["url"] = self.client.url

    def inspect(self) -> dict[str, Any]:
        """Check that the server answers.

        The model is not checked: some servers do not list theirs, and some take any name.
        """
        try:
            self.client.call("GET", "/models", None, lambda body: None, retries=0)
        except NoReplyError as error:
            if error.code is None:
                raise InputError(
                    f"judge.url: no server at {self.client.url} ({error}); start it, or give the "
                    "address of another, up to /v1, as judge.url"
                ) from error
            if error.code != 404:
                self.stop_if_hopeless(error)
        return {"model": self.model}

    def request(
        self, messages: Messages, schema: dict[str, Any] | None, one_word: bool = False
    ) -> Request:
        body = {"model": self.model, "messages": messages, "stream": False} | self.options()
        if schema and self.config.schema:
            # The name is part of the key of kept judgements, so it must not change.
            named = {"name": "verdict", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        if one_word:
            body |= PROBABILITIES
        return body

    def body(self, request: Request, form: str) -> Request:
        body = self.in_form(request, form) | {self.limit_key: self.limit(form)}
        if form == "json_object":
            schema = request["response_format"]["json_schema"]["schema"]
            body["response_format"] = {"type": form, "schema": schema}
        return body

    def adapts(self, error: NoReplyError, body: Request, form: str) -> bool:
        if "max_tokens" in body and error.code == 400 and "max_completion_tokens" in str(error):
            self.limit_key = "max_completion_tokens"
            return True
        return super().adapts(error, body, form)

    def read(self, body: Any) -> Reply:
        choice = body["choices"][0]
        message = choice["message"]
        usage = body.get("usage") or {}
        refusal = text_of(message.get("refusal"))
        done_reason = text_of(choice.get("finish_reason")) or None
        return Reply(
            text=text_of(message.get("content")) or refusal,
            refused=bool(refusal) or done_reason == "content_filter",
            done_reason=done_reason,
            prompt_tokens=count_of(usage.get("prompt_tokens")),
            reply_tokens=count_of(usage.get("completion_tokens")),
            first=first_token((choice.get("logprobs") or {}).get("content")),
        )
