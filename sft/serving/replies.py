"""What is sent back, in OpenAI's form."""

import json
import secrets
import time
from collections.abc import Mapping

from starlette.responses import Response

from sft.serving.api import Json, Question


def reply(content: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        json.dumps(content), status, headers, "application/json"
    )  # half a surrogate pair stays escaped


class Reply:
    """The objects that answer one question."""

    def __init__(self, question: Question) -> None:
        self.question = question
        self.id, self.created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())

    def completion(self, text: str, finish_reason: str, usage: Json) -> Json:
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return self._object("chat.completion", [choice]) | {"usage": usage}

    def chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._object("chat.completion.chunk", [choice]) | (
            {"usage": None} if self.question.include_usage else {}
        )

    def last_chunk(self, usage: Json) -> Json:
        return self._object("chat.completion.chunk", []) | {"usage": usage}

    def _object(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.question.model,
            "choices": choices,
        }


def usage(prompt: int, completion: int) -> Json:
    """Both in tokens."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
