"""Evaluated runs with answers that a test chooses, and the voting page on a port."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from sft.serve import address, listen
from sft.serving.guard import Access
from sft.voting.app import make_app
from sft.voting.ballots import Arena
from sft.voting.votes import VoteFile
from tests.fixtures.record import MADE

Json = dict[str, Any]


def evaluated(
    folder: Path,
    tuned: Sequence[str | None],
    base: Sequence[str] | None = None,
    sha: str = "",
    question: Json | None = None,
    preferred: Sequence[str | None] = (),
    scores: Sequence[int | None] = (),
    judge: Json | None = None,
    **settings: Any,
) -> str:
    """Write an evaluated run with these answers; return its folder."""
    place = folder / "evaluation"
    place.mkdir(parents=True)
    summary = json.loads((MADE / "run" / "evaluation" / "summary.json").read_text())
    summary["tuned"]["sha256"] = sha or f"weights of {folder.name}"
    summary["base"]["sha256"] = "weights of the base"
    of_judge = {"audit": None, "pairwise": None, "coverage": {}, "warning": None}
    summary |= (
        {"judge": of_judge | judge if judge else None} | ({} if base else {"base": None}) | settings
    )
    (place / "summary.json").write_text(json.dumps(summary))

    rows = []
    for index, text in enumerate(tuned):
        one = _answer(text)
        if scores:
            one["score"] = scores[index]
        row = {
            "record": index + 1,
            "duplicate": None,
            "category": None,
            "before": [],
            "instruction": f"Say {index + 1}.",
            "input": "",
            "output": str(index + 1),
            "tuned": one,
            "base": _answer(base[index]) if base else None,
            "preferred": preferred[index] if preferred else None,
        }
        rows.append(row | (question or {}))
    (place / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def _answer(text: str | None) -> Json:
    unasked = {"tokens": None, "finish_reason": None, "loss": None, "loss_tokens": 0}
    asked = {"tokens": 1, "finish_reason": "stop", "loss": 1.0, "loss_tokens": 3}
    part: Json = {"text": text, "status": None, "score": None, "reason": None}
    part |= unasked if text is None else asked
    return part | dict.fromkeys(("exact_match", "token_f1", "rouge_l", "chrf"), 0.0)


@contextmanager
def polling(arena: Arena, path: Path) -> Iterator[str]:
    """Run the voting page in a thread; yield its URL."""
    listener = listen("127.0.0.1", 0)
    app = make_app(arena, VoteFile(path), Access("127.0.0.1"))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield address(listener)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()
