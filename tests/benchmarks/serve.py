"""A server under load: speed with one caller and with many, and whether an answer was wrong.

    python -m tests.benchmarks.serve --clients 16 --requests 200

The server is a process of its own. One caller and many callers ask it in turns (A B A B), over
HTTP, in streams. Every answer is compared with what `generate` gives for the same prompt. The time
to the first token runs from sending the request to the first text of its answer.
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
from sft.inference.models import ChatModel, Placement, load_tuned


@dataclass
class Measured:
    """One answer: its text, its tokens, and the seconds to its first text and to its end."""

    text: str
    tokens: int
    first_text: float
    end: float


@contextmanager
def server(model: str, slots: int, max_tokens: int) -> Iterator[str]:
    """Start a server and yield its URL; in the end it must exit with code 0."""
    command = [sys.executable, "-m", "sft.serve", model, "--port", "0", "--no-base"]
    command += ["--precision", "32", "--device", "cpu"]
    command += ["--slots", str(slots), "--max-tokens", str(max_tokens)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        yield url_of(iter(process.stdout.readline, ""))
        process.terminate()
        assert process.wait(60) == 0, "the server did not end well"


def url_of(lines: Iterator[str]) -> str:
    """Return the URL that a server prints once it listens."""
    for line in lines:
        if found := re.search(r"at (http://\S+)", line):
            return found[1]
    sys.exit("error: the server ended before it listened")


def ask(session: requests.Session, url: str, record: Record) -> Measured:
    body = {
        "model": "tuned",
        "messages": [{"role": "user", "content": record.instruction}],
        "input": record.input,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    text = ""
    tokens = 0
    first_text = 0.0
    began = time.perf_counter()
    with session.post(
        f"{url}/v1/chat/completions", json=body, stream=True, timeout=120
    ) as response:
        response.raise_for_status()
        for line in response.iter_lines(chunk_size=1):
            if not line or line == b"data: [DONE]":
                continue
            event = json.loads(line.removeprefix(b"data: "))
            if event["choices"] and (piece := event["choices"][0]["delta"].get("content")):
                first_text = first_text or time.perf_counter() - began
                text += piece
            tokens = (event["usage"] or {}).get("completion_tokens", tokens)
    return Measured(text, tokens, first_text, time.perf_counter() - began)


def ask_all(url: str, records: list[Record], clients: int) -> tuple[float, list[Measured]]:
    """Ask for all records with so many callers; return the seconds of all and the answers."""
    with requests.Session() as session, ThreadPoolExecutor(clients) as callers:
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=clients))
        began = time.perf_counter()
        answers = list(callers.map(lambda record: ask(session, url, record), records))
        return time.perf_counter() - began, answers


def expected_answers(chat_model: ChatModel, records: list[Record], max_tokens: int) -> list[str]:
    prompts = [chat_model.prompt(record.instruction, record.input) for record in records]
    end = chat_model.tokenizer.eot_token
    answers = generate(chat_model.model, prompts, max_tokens, eos_id=end)
    return [decode(chat_model.tokenizer, tokens) for tokens in answers]


def percentiles(seconds: list[float]) -> str:
    """Return the 50th and the 95th percentile in milliseconds, as two cells of the table."""
    found = statistics.quantiles(seconds, n=100, method="inclusive")
    return f"{1000 * found[49]:,.0f} | {1000 * found[94]:,.0f}"


def table_row(clients: int, seconds: float, answers: list[Measured], wrong: int) -> str:
    tokens = sum(answer.tokens for answer in answers)
    cells = [
        f"{clients}",
        f"{len(answers) / seconds:.1f}",
        f"{tokens / seconds:,.0f}",
        percentiles([answer.first_text for answer in answers]),
        percentiles([answer.end for answer in answers]),
        f"{wrong}",
    ]
    return f"| {' | '.join(cells)} |"


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
    chat_model = load_tuned(args.model, Placement("cpu", "32-true"))
    expected = expected_answers(chat_model, records, args.max_tokens)
    rows = []
    all_wrong = 0
    with server(args.model, args.clients, args.max_tokens) as url:
        # The first answers are slower, so they are not measured.
        ask_all(url, records[:8], clients=4)

        for clients in (1, args.clients) * args.rounds:
            seconds, answers = ask_all(url, records, clients)
            pairs = zip(answers, expected, strict=True)
            wrong = sum(answer.text != text for answer, text in pairs)
            rows.append(table_row(clients, seconds, answers, wrong))
            all_wrong += wrong

    processor = platform.processor() or platform.machine()
    print(f"{args.model}, {processor} CPU, {torch.get_num_threads()} threads, fp32,")
    print(f"torch {torch.__version__}, {time.strftime('%Y-%m-%d')}, {len(records)} requests a row")
    print()
    print(
        "| callers | requests/s | tokens/s | first token, ms: p50 | p95 "
        "| whole answer, ms: p50 | p95 | wrong |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    if all_wrong:
        sys.exit(f"error: {all_wrong} answers were not as expected")


if __name__ == "__main__":
    main()
