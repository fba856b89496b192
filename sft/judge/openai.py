"""The judge on any server with OpenAI's chat completions: vLLM, llama.cpp, LM Studio, OpenAI itself.

The key, where one is needed, comes from the environment.
"""

import os
import re
from typing import Any, ClassVar

from sft.config.schema import JudgeConfig
from sft.errors import InputError
from sft.judge.client import NoReplyError
from sft.judge.judge import Judge, Messages, Reply, Request, count_of, text_of


class OpenAI(Judge):
    path = "/chat/completions"
    remedies: ClassVar = {
        401: "put the right key into OPENAI_API_KEY",
        403: "put the right key into OPENAI_API_KEY",
        404: "is this the model's name, and does judge.url go up to /v1?",
    }

    def __init__(self, config: JudgeConfig) -> None:
        key = os.environ.get("OPENAI_API_KEY", "").strip()
        if not re.fullmatch("[!-~]*", key):  # requests' own error would show it
            raise InputError("OPENAI_API_KEY: holds characters that no key has; set it anew")
        self.limit = "max_tokens"  # or max_completion_tokens, the one name that OpenAI's reasoning models take
        super().__init__(config, key)
        self.who["url"] = self.client.url  # there is no digest to know the model by

    def look(self) -> dict[str, Any]:
        """Not whether the model is there: some servers do not list theirs, and some take any name."""
        try:
            self.client.call("GET", "/models", None, lambda body: None, retries=0)
        except NoReplyError as error:
            if error.code is None:
                remedy = "start it, or give the address of another, up to /v1, as judge.url"
                raise InputError(
                    f"judge.url: no server at {self.client.url} ({error}); {remedy}"
                ) from error
            if error.code != 404:
                self.stop_if_hopeless(error)
        return {"model": self.model}

    def request(self, messages: Messages, schema: dict[str, Any] | None) -> Request:
        body = {"model": self.model, "messages": messages, "stream": False} | self.options()
        if schema and self.config.schema:
            named = {"name": "verdict", "strict": True, "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": named}
        return body

    def has_schema(self, request: Request) -> bool:
        return "response_format" in request

    def body(self, request: Request, form: str) -> Request:
        body = request | {self.limit: self.config.max_tokens}
        if form == "json_object":
            body["response_format"] = {
                "type": form,
                "schema": request["response_format"]["json_schema"]["schema"],
            }
        elif form == "none":
            body.pop("response_format", None)
        return body

    def adapts(self, error: NoReplyError, body: Request, form: str) -> bool:
        if "max_tokens" in body and error.code == 400 and "max_completion_tokens" in str(error):
            self.limit = "max_completion_tokens"
            return True
        return super().adapts(error, body, form)

    def read(self, body: Any) -> Reply:
        choice, usage = body["choices"][0], body.get("usage") or {}
        message, ended = choice["message"], text_of(choice.get("finish_reason")) or None
        refusal = text_of(message.get("refusal"))
        return Reply(
            text_of(message.get("content")) or refusal,
            bool(refusal) or ended == "content_filter",
            ended,
            count_of(usage.get("prompt_tokens")),
            count_of(usage.get("completion_tokens")),
        )
