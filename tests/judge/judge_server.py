"""A judge's server on this machine, over real HTTP: Ollama's API (docs/api.md) and OpenAI's.

`python tests/judge/judge_server.py 11434` runs one by hand. It gives 100 for the expected answer, 0
for none, and otherwise a number by how many letters the two share.
"""

import contextlib
import difflib
import json
import math
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from sft.config.schema import JudgeConfig
from sft.errors import InputError
from sft.judge.ask import connect

BUSY = {"error": "server busy, please try again.  maximum pending requests exceeded"}


MODELS = {"ollama": "llama3", "openai": "mine"}


def met(site: "Site", **choices: Any) -> Any:
    """Connect to the judge on a server."""
    choices = {
        "model": MODELS[site.kind],
        "url": site.url,
        "timeout": 5.0,
        "concurrency": 2,
    } | choices
    judge = connect(JudgeConfig(site.kind, **choices))
    assert judge is not None
    return judge


def refused(site: "Site", **choices: Any) -> str:
    """Return the line that refuses to connect to the judge on a server."""
    with pytest.raises(InputError) as error:
        met(site, **choices)
    assert "\n" not in str(error.value)
    return str(error.value)


def shown(messages: list[dict[str, str]]) -> tuple[str, str]:
    """Return the expected answer, and the text between the marks that the system message names."""
    system, user = messages[0]["content"], messages[-1]["content"]
    mark = re.findall(r"\[answer ([0-9a-f]{16})\]", system)[0]
    [answer] = re.findall(rf"\n\[answer {mark}\]\n(.*)\n\[end of answer {mark}\]\n", user, re.S)
    [expected] = re.findall(rf"(?:^|\n)Expected answer:\n(.*)\n\n\[answer {mark}\]", user, re.S)
    return expected, answer


def grade(messages: list[dict[str, str]]) -> str:
    """Return the reply of a judge that reads the text between the marks alone."""
    if len(messages) == 1:
        return "50"
    if "compare" in messages[0]["content"]:
        return '{"reason": "as good as the other", "winner": "tie"}'
    expected, answer = shown(messages)
    score = round(100 * difflib.SequenceMatcher(None, expected, answer).ratio()) if answer else 0
    return json.dumps({"reason": f"{len(answer)} letters", "score": score})


def form_of(body: dict[str, Any]) -> str:
    """Return the form in which a request asks for JSON."""
    asked = body.get("format", body.get("response_format"))
    kinds = {
        "json": "json_object",
        "json_object": "json_object",
        "json_schema": "json_schema",
        "object": "json_schema",
    }
    return "none" if asked is None else kinds[asked["type"] if isinstance(asked, dict) else asked]


@dataclass
class Site:
    """The server, how it answers, and what it was asked."""

    # How it answers. `context` is that of its models; None: an old server, which does not say.
    # `key` must be brought by a request.
    kind: str = "ollama"
    judge: Callable[[list[dict[str, str]]], Any] = grade
    models: dict[str, str] = field(default_factory=lambda: {"llama3:latest": "365c0bd3c000"})
    context: int | None = 8192
    tokens: Callable[[str], int] = lambda text: len(re.findall(r"\w+|[^\w\s]", text))
    key: str = ""
    layers: list[dict[str, Any]] = field(default_factory=list)

    # The forms of JSON that it takes, and its refusal of the others. `limit` is the name that an
    # OpenAI server has for the limit on a reply's tokens.
    forms: tuple[str, ...] = ("json_schema", "json_object", "none")
    refusal: tuple[int, str] = (400, "Unknown parameter: 'response_format'.")
    limit: str = "max_tokens"

    # The probabilities of the likeliest first tokens; empty: a server that does not tell them.
    likeliest: dict[str, float] = field(default_factory=dict)

    # The first `times` chats whose last message holds `about` meet the fault. Each chat takes
    # `delay` seconds.
    fault: str | None = None
    about: str = ""
    times: int = 10**9
    delay: float = 0.0

    # What it was asked: the bodies of chats; method, path and headers of all requests.
    url: str = ""
    chats: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0
    lock: Any = field(default_factory=threading.Lock)

    def strikes(self, body: dict[str, Any]) -> bool:
        with self.lock:
            hit = (
                self.fault is not None
                and self.times > 0
                and self.about in body["messages"][-1]["content"]
            )
            self.times -= hit
            return hit


class Handler(BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *arguments: object) -> None:
        pass

    def send(self, code: int, content: Any, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        self.respond("GET", None)

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.respond("POST", json.loads(self.rfile.read(length)))

    def respond(self, method: str, body: Any) -> None:
        site = self.site
        site.requests.append((method, self.path, dict(self.headers)))
        routes = {
            "ollama": {
                "GET /api/version": lambda: self.send(200, {"version": "0.12.6"}),
                "GET /api/tags": self.tags,
                "POST /api/show": lambda: self.show(body),
                "POST /api/pull": lambda: self.pull(body),
                "POST /api/chat": lambda: self.chat(body),
            },
            "openai": {
                "GET /v1/models": self.listed,
                "POST /v1/chat/completions": lambda: self.chat(body),
            },
        }[site.kind]
        if site.key and self.headers.get("Authorization") != f"Bearer {site.key}":
            self.send(
                401, {"error": {"message": f"wrong key: {self.headers.get('Authorization')}"}}
            )
        else:
            routes.get(f"{method} {self.path}", lambda: self.send(404, b"404 page not found"))()

    def tags(self) -> None:
        models = [
            {
                "name": name,
                "model": name,
                "size": 4661224676,
                "digest": digest,
                "details": {"family": "llama"},
            }
            for name, digest in self.site.models.items()
        ]
        self.send(200, {"models": models})

    def listed(self) -> None:
        self.send(
            200,
            {
                "object": "list",
                "data": [{"id": name, "object": "model"} for name in self.site.models],
            },
        )

    def show(self, body: dict[str, Any]) -> None:
        if self.site.context is None:
            self.send(404, b"404 page not found")
        else:
            info = {"general.architecture": "llama", "llama.context_length": self.site.context}
            self.send(200, {"details": {}, "model_info": info})

    def pull(self, body: dict[str, Any]) -> None:
        """Send the layers line by line. The model is there when the last line says success."""
        self.send_response(200)
        self.end_headers()
        for line in self.site.layers:
            self.wfile.write(json.dumps(line).encode() + b"\n")
            self.wfile.flush()
            if line.get("status") == "success":
                self.site.models[body["model"]] = "f" * 12

    def chat(self, body: dict[str, Any]) -> None:
        site = self.site
        with site.lock:
            site.chats.append(body)
            site.under_way += 1
            site.most_under_way = max(site.most_under_way, site.under_way)
        try:
            time.sleep(site.delay)
            model = (
                body["model"]
                if ":" in body["model"] or site.kind == "openai"
                else body["model"] + ":latest"
            )
            if form_of(body) not in site.forms:
                self.send(site.refusal[0], {"error": {"message": site.refusal[1]}})
            elif site.kind == "openai" and site.limit not in body:
                self.send(
                    400,
                    {"error": {"message": f"Unsupported parameter. Use '{site.limit}' instead."}},
                )
            elif site.strikes(body):
                self.broken(body)
            elif model not in site.models:
                self.send(404, {"error": f"model '{body['model']}' not found"})
            else:
                self.send(200, self.reply(body, site.judge(body["messages"])))
        finally:
            with site.lock:
                site.under_way -= 1

    def reply(self, body: dict[str, Any], content: Any) -> dict[str, Any]:
        prompt = sum(self.site.tokens(message["content"]) for message in body["messages"])
        words = str(content).split(" ")
        limit = (
            body[self.site.limit] if self.site.kind == "openai" else body["options"]["num_predict"]
        )
        ended = "stop" if len(words) <= limit else "length"
        content = content if ended == "stop" else " ".join(words[:limit])
        message, length = {"role": "assistant", "content": content}, min(len(words), limit)
        first = [
            {"token": token, "logprob": math.log(p)} for token, p in self.site.likeliest.items()
        ]
        told = [{"top_logprobs": first[: body["top_logprobs"]]}] if "logprobs" in body else []
        if self.site.kind == "openai":
            choice = {"index": 0, "message": message, "finish_reason": ended}
            if first and told:
                choice["logprobs"] = {"content": told}
            usage = {
                "prompt_tokens": prompt,
                "completion_tokens": length,
                "total_tokens": prompt + length,
            }
            return {
                "object": "chat.completion",
                "model": body["model"],
                "choices": [choice],
                "usage": usage,
            }
        return {
            "model": body["model"],
            "created_at": "2026-01-31T12:00:00.000000Z",
            "message": message,
            "done": True,
            "done_reason": ended,
            "total_duration": 2254970291,
            # A longer prompt has lost its beginning.
            "prompt_eval_count": min(prompt, body["options"]["num_ctx"]),
            "eval_count": length,
        } | ({"logprobs": told} if first and told else {})

    def broken(self, body: dict[str, Any]) -> None:
        """Do the fault instead of replying. A fault without a name here is the judge's text."""
        whole = json.dumps(self.reply(body, '{"reason": "", "score": 50}')).encode()
        fault = self.site.fault or ""
        if fault.isdigit() and len(fault) == 3:
            self.send(int(fault), {"error": "no such model" if fault == "404" else BUSY["error"]})
        elif fault == "redirect":
            self.send(308, b"", Location="http://elsewhere.invalid/")
        elif fault == "slow":
            time.sleep(1.0)
            self.send(200, whole)
        elif fault == "stalled":
            self.begin(whole[:20], len(whole))
            time.sleep(1.0)
        elif fault == "trickle":
            self.begin(b"", len(whole))
            for number in range(len(whole)):
                self.wfile.write(whole[number : number + 1])
                time.sleep(0.02)
        elif fault == "cut":
            self.begin(whole[:20], len(whole))
        elif fault == "closed":
            self.close_connection = True
        elif fault == "error in a 200":
            self.send(200, {"error": "an error was encountered while running the model"})
        elif fault == "a web page":
            self.send(200, b"<html>Log in</html>")
        elif fault == "another object":
            self.send(200, {"message": "hello", "choices": []})
        elif fault == "a stream":
            self.send(200, whole + b"\n" + whole)
        else:
            self.send(
                200,
                self.reply(
                    body, json.loads(fault) if fault in ("null", "85", "[]", "{}") else fault
                ),
            )

    def begin(self, part: bytes, length: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(part)
        self.wfile.flush()


class Server(ThreadingHTTPServer):
    request_queue_size = 128

    def handle_error(self, *arguments: object) -> None:
        """Stay silent: clients that are killed are part of the tests."""


@contextlib.contextmanager
def serving(site: Site, port: int = 0) -> Iterator[Site]:
    server = Server(("127.0.0.1", port), type("Handler", (Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_port}" + ("/v1" if site.kind == "openai" else "")
    threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
    ).start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()


if __name__ == "__main__":
    with serving(Site(*sys.argv[2:]), int(sys.argv[1])) as running:
        print(running.url, flush=True)
        threading.Event().wait()
