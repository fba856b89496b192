"""A server under load: many callers at once against one, in turns (A B A B), and whether any answer was lost or wrong.

    python -m tests.benchmarks.serve --clients 16 --requests 200

The server is a process of its own, asked over HTTP in streams; every answer is compared with what `generate` gives for
the same prompt. Time to first token: from sending the request to the first text of its answer.
"""

import argparse
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import requests
import torch

from sft.config.schema import DataConfig
from sft.data.records import Record
from sft.data.sources import load_source
from sft.gpt2.generate import generate
from sft.gpt2.tokenizer import decode
from sft.inference.models import Placement, ChatModel, load_tuned


@dataclass
class Told:
    """One answer: its text, its tokens, and the seconds until its first text and its end."""

    text: str
    tokens: int
    first: float
    whole: float


@contextmanager
def server(model: str, slots: int, max_tokens: int) -> Iterator[str]:
    """Its address; it must end well."""
    options = [
        "--port",
        "0",
        "--no-base",
        "--precision",
        "32",
        "--device",
        "cpu",
        "--slots",
        str(slots),
    ]
    command = [sys.executable, "-m", "sft.serve", model, *options, "--max-tokens", str(max_tokens)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        said = iter(process.stdout.readline, "")
        yield next(found[1] for line in said if (found := re.search(r"at (http://\S+)", line)))
        process.terminate()
        assert process.wait(60) == 0, "the server did not end well"


def ask(session: requests.Session, url: str, record: Record) -> Told:
    messages = [{"role": "user", "content": record.instruction}]
    body = {"model": "tuned", "messages": messages, "input": record.input, "stream": True}
    began, text, first, tokens = time.perf_counter(), "", 0.0, 0
    more = {"stream_options": {"include_usage": True}}
    with session.post(
        f"{url}/v1/chat/completions", json=body | more, stream=True, timeout=120
    ) as reply:
        reply.raise_for_status()
        for line in reply.iter_lines(chunk_size=1):
            if not line or line == b"data: [DONE]":
                continue
            event = json.loads(line.removeprefix(b"data: "))
            if event["choices"] and (piece := event["choices"][0]["delta"].get("content")):
                first = first or time.perf_counter() - began
                text += piece
            tokens = (event["usage"] or {}).get("completion_tokens", tokens)
    return Told(text, tokens, first, time.perf_counter() - began)


def load(url: str, records: list[Record], clients: int) -> tuple[float, list[Told]]:
    """Seconds for all records, and what was told."""
    with requests.Session() as session, ThreadPoolExecutor(clients) as callers:
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=clients))
        began = time.perf_counter()
        told = list(callers.map(lambda record: ask(session, url, record), records))
        return time.perf_counter() - began, told


def expected(voice: ChatModel, records: list[Record], max_tokens: int) -> list[str]:
    prompts = [voice.prompt(record.instruction, record.input) for record in records]
    answers = generate(voice.model, prompts, max_tokens, eos_id=voice.tokenizer.eot_token)
    return [decode(voice.tokenizer, tokens) for tokens in answers]


def line(clients: int, seconds: float, told: list[Told], right: list[str]) -> str:
    """A row of the table: speed, the 50th and 95th of 100 waiting times, and answers that are not as expected."""
    firsts = statistics.quantiles([one.first for one in told], n=100, method="inclusive")
    wholes = statistics.quantiles([one.whole for one in told], n=100, method="inclusive")
    wrong = sum(one.text != text for one, text in zip(told, right, strict=True))
    tokens = sum(one.tokens for one in told)
    times = " | ".join(
        f"{1000 * values[at]:,.0f}" for values in (firsts, wholes) for at in (49, 94)
    )
    return (
        f"| {clients} | {len(told) / seconds:.1f} | {tokens / seconds:,.0f} | {times} | {wrong} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default="gpt2-nano", help="run, folder or repository (%(default)s)"
    )
    parser.add_argument("--clients", type=int, default=16, help="callers at once (%(default)s)")
    parser.add_argument("--requests", type=int, default=200, help="of each turn (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=32, help="of an answer (%(default)s)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each (%(default)s)")
    args = parser.parse_args()
    records = load_source(DataConfig()).records[: args.requests]
    right = expected(load_tuned(args.model, Placement("cpu", "32-true")), records, args.max_tokens)
    rows = []
    with server(args.model, args.clients, args.max_tokens) as url:
        load(url, records[:8], clients=4)  # warm
        for clients in (1, args.clients) * args.rounds:
            seconds, told = load(url, records, clients)
            rows.append(line(clients, seconds, told, right))
    print(
        f"{args.model}, {platform.processor() or platform.machine()} CPU, {torch.get_num_threads()} threads, fp32, "
    )
    print(
        f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}, {len(records)} requests a row\n"
    )
    print(
        "| callers | requests/s | tokens/s | first token, ms: p50 | p95 | whole answer, ms: p50 | p95 | wrong |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    if not all(row.endswith("| 0 |") for row in rows):
        sys.exit("error: an answer was not the expected one")


if __name__ == "__main__":
    main()
