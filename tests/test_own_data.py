"""Each row of the table in the README: one command trains on it, and shows the right example."""

import gzip
import json
import re
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

import evaluate
from sft import launch
from tests.fixtures.hub import COMMIT, LATER, REPO, FakeHub, served

RECORDS = [{"instruction": f"say tree {i}", "output": f"{i} trees"} for i in range(20)]
QUICK = ("max_steps=1", "eval.every=0", "eval.sample=false", "logger=none", "device=cpu")


def table() -> str:
    return "instruction,output\n" + "".join(
        f'"{record["instruction"]}",{record["output"]}\n' for record in RECORDS
    )


def columns() -> bytes:
    file = BytesIO()
    parquet.write_table(pa.Table.from_pylist(RECORDS), file)
    return file.getvalue()


FILES = {
    "mine.json": json.dumps(RECORDS).encode(),
    "wrapped.json": json.dumps({"data": RECORDS}).encode(),
    "splits.json": json.dumps({"train": RECORDS, "test": RECORDS[:2]}).encode(),
    "mine.jsonl.gz": gzip.compress("\n".join(map(json.dumps, RECORDS)).encode()),
    "mine.csv": table().encode(),
    "mine.parquet": columns(),
    "parts/a.csv": table().encode(),
    "parts/b.parquet": columns(),
}


@pytest.fixture
def train(command: Callable[..., None], checkpoint: Path) -> Callable[..., str]:
    """Call train.py in a folder with FILES, and return the log."""
    for name, content in FILES.items():
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(content)

    def call(*arguments: str) -> str:
        command(
            *(f"model.checkpoint={checkpoint}", "model.allow_untrained=true", "data.prompt=phi3"),
            "data.mask_prompt=true",
            *(*QUICK, "hydra.run.dir=run", *arguments),
        )
        return Path("run/train.log").read_text()

    return call


@pytest.mark.parametrize(
    ("arguments", "records"),
    [
        ("data=json data.path=mine.json", 17),
        ("data=file data.path=wrapped.json", 17),
        ("data=file data.path=splits.json", 18),
        ("data=file data.path=mine.jsonl.gz", 17),
        ("data=file data.path=mine.csv", 17),
        ("data=file data.path=mine.parquet", 17),
        ("data=file data.path=parts", 34),
        ("data=file data.path=[mine.json,parts/a.csv] data.weights=[1,0.3]", 34),
    ],
)
def test_one_command_trains_on_a_file(
    train: Callable[..., str], arguments: str, records: int
) -> None:
    log = train(*arguments.split())
    summary = json.loads(Path("run/summary.json").read_text())
    assert summary["data"]["splits"]["train"]["records"] == records

    # Which record comes first depends on the split.
    expected = r"<\|user\|>\nsay tree (\d+)\n<\|assistant\|>\n⟦(\d+) trees<\|endoftext\|>⟧"
    example = re.search(expected, log)
    assert example
    assert example[1] == example[2]


def test_one_command_trains_on_the_hub_and_goes_on_at_its_commit(
    train: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeHub({COMMIT: {"a.csv": table().encode()}, LATER: {"a.csv": b"instruction,output"}})
    given = ("data=hub", f"data.path={REPO}")
    with served(fake, tmp_path, monkeypatch):
        log = train(*given)
        fake.newest = LATER
        train("resume=auto", *given, "max_steps=2")
        monkeypatch.setattr(launch, "FULL_ERROR", False)
        call = ["evaluate.py", "--config-path", str(Path(evaluate.__file__).parent / "conf")]
        monkeypatch.setattr("sys.argv", [*call, "run=run", "device=cpu"])
        launch.run(evaluate.main)
    assert f"{REPO} at commit {COMMIT}: a.csv" in log
    summary = json.loads(Path("run/summary.json").read_text())
    assert (summary["steps"], summary["data"]["revision"]) == (2, COMMIT)
    answered = json.loads(Path("run/evaluation/responses.json").read_text())
    assert len(answered) == 2
