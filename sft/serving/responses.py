"""The JSON objects that are sent back, in OpenAI's form."""

import json
import secrets
import time
from collections.abc import Mapping

from starlette.responses import Response

from sft.serving.api import ChatRequest, Json


def json_response(
    content: Json, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    # Starlette's own JSONResponse fails on half a surrogate pair. json.dumps keeps it escaped.
    return Response(json.dumps(content), status, headers, "application/json")


class ChatResponse:
    """Builds the objects that answer one request; all of them have one id and one time."""

    def __init__(self, request: ChatRequest) -> None:
        self.request = request
        self.id = f"chatcmpl-{secrets.token_hex(12)}"
        self.created = int(time.time())

    def completion(self, text: str, finish_reason: str, usage: Json) -> Json:
        """Return the whole answer."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
        return self._object("chat.completion", [choice]) | {"usage": usage}

    def chunk(self, delta: Json, finish_reason: str | None = None) -> Json:
        """Return a part of a streamed answer."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        content = self._object("chat.completion.chunk", [choice])

        # OpenAI promises the key in every chunk if the last one reports the usage.
        if self.request.include_usage:
            content["usage"] = None
        return content

    def usage_chunk(self, usage: Json) -> Json:
        """Return the last chunk of a stream that reports its usage; it has no choices."""
        return self._object("chat.completion.chunk", []) | {"usage": usage}

    def _object(self, kind: str, choices: list[Json]) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.request.model,
            "choices": choices,
        }


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
