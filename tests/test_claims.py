"""Two processes never work in one run folder.

The second is refused, and leaves the folder byte for byte as it was.
"""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import train
from sft import claims
from sft.config.schema import TrainConfig
from sft.summaries import write_run_summary
from tests.forked import Command as Forked
from tests.summaries import run_summary

Command = Callable[..., None]
HOLD = (
    "import sys; from pathlib import Path; from sft import claims; "
    "{claim}; print('held', flush=True); {then}"
)
OWNER = "claims.claim(Path(sys.argv[1]), 'hydra.run.dir')"
RANK = "kept = claims.claimed_by_rank_0(Path(sys.argv[1])); kept.__enter__()"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(claims, "_said", set())
    yield
    claims.release_all()


@pytest.fixture
def hold() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Let another process claim a folder, until it is killed or the test ends."""
    started = []

    def begin(folder: str, claim: str = OWNER, then: str = "input()") -> subprocess.Popen[str]:
        code = HOLD.format(claim=claim, then=then)
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(
            [sys.executable, "-c", code, folder], env=environment, text=True, **pipes
        )  # type: ignore[call-overload]
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process  # type: ignore[no-any-return]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The seeds of the runs that were not refused. They end at once."""
    seeds = []

    def fit(config: TrainConfig, folder: Path, changed: str) -> None:
        write_run_summary(folder, run_summary(config={}, best_validation_loss=config.seed))
        seeds.append(config.seed)

    monkeypatch.setattr(train, "fit", fit)
    return seeds


def contents(folder: str) -> dict[Path, tuple[bytes, int]]:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def begun(folder: str) -> None:
    """Make a run's folder as it is after the first checkpoint."""
    for name in (
        ".hydra/config.yaml",
        ".hydra/overrides.yaml",
        "metrics.csv",
        "checkpoints/last.ckpt",
    ):
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("of the living run")


def said(command: Command, *arguments: str) -> str:
    with pytest.raises(SystemExit) as end:
        command(*arguments)
    return str(end.value.code)


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["hydra.run.dir=run"], "hydra.run.dir"),
        (["++hydra.run.dir=../{here}/run"], "hydra.run.dir"),
        (["hydra.run.dir=link", "resume=auto"], "hydra.run.dir"),
        (["resume=run"], "resume"),
        (["resume=latest"], "resume"),
        (["hydra.run.dir=run", "hydra.output_subdir=mine"], "hydra.run.dir"),
        (["seed=1,2", "-m", "hydra.sweep.dir=run"], "hydra.sweep.dir"),
        (["seed=1,2", "-m", "hydra.sweep.dir=run", "resume=auto"], "hydra.sweep.dir"),
    ],
)
def test_a_folder_in_use_is_refused_and_stays_as_it_was(
    command: Command,
    hold: Callable[..., subprocess.Popen[str]],
    done: list[int],
    arguments: list[str],
    key: str,
) -> None:
    begun("run")
    Path("link").symlink_to("run")
    Path("outputs").mkdir()
    Path("outputs/latest").symlink_to("../run")
    owner = hold("run")
    before = contents("run")
    message = said(command, *[argument.format(here=Path.cwd().name) for argument in arguments])
    assert message.startswith(
        f"error: {key}: {Path('run').absolute()} is in use by process {owner.pid} on "
    )
    assert contents("run") == before
    assert done == []


@pytest.mark.parametrize("claim", [OWNER, RANK])
def test_a_dead_owner_does_not_block(
    command: Command, hold: Callable[..., subprocess.Popen[str]], done: list[int], claim: str
) -> None:
    """The processes that it forked may live a little longer. They do not block either."""
    Path("run").mkdir()
    forks = (
        "import os, time; child = os.fork(); child or (time.sleep(60), os._exit(0)); "
        "print(child, flush=True); input()"
    )
    owner = hold("run", claim, forks)
    child = int(owner.stdout.readline())  # type: ignore[union-attr]
    assert "in use" in said(command, "hydra.run.dir=run")
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    try:
        command("hydra.run.dir=run", "seed=5")
    finally:
        os.kill(child, signal.SIGKILL)
    assert done == [5]
    assert {path.name for path in Path("run").iterdir()} == {".hydra", "summary.json"}


def test_the_ranks_of_a_killed_launcher_still_have_their_folder(
    command: Command, hold: Callable[..., subprocess.Popen[str]], done: list[int]
) -> None:
    Path("run").mkdir()
    rank = hold("run", RANK)
    assert f"in use by process {rank.pid}" in said(command, "hydra.run.dir=run")
    assert {path.name for path in Path("run").iterdir()} == {".lock-ranks"}
    with claims.claimed_by_rank_0(Path()):
        assert Path(".lock-ranks").exists()
    assert not Path(".lock-ranks").exists()


def test_the_owner_of_a_folder_is_not_refused_by_itself(command: Command, done: list[int]) -> None:
    Path("run").mkdir()
    assert claims.claim(Path("run"), "key")
    assert not claims.claim(Path("run/../run"), "key")
    with claims.claimed_by_rank_0(Path("run")):
        assert {path.name for path in Path("run").iterdir()} == {".lock"}


def test_runs_of_one_second_get_folders_of_their_own(command: Command, done: list[int]) -> None:
    for seed in (1, 2, 3):
        command("hydra.run.dir=runs/${now:%Y}", f"seed={seed}")
    folders = sorted(Path("runs").iterdir())
    assert [
        json.loads((folder / "summary.json").read_text())["best_validation_loss"]
        for folder in folders
    ] == [
        1,
        2,
        3,
    ]
    year = folders[0].name
    assert [folder.name for folder in folders] == [year, f"{year}-2", f"{year}-3"]
    assert "seed=3" in Path(f"runs/{year}-3/.hydra/overrides.yaml").read_text()


def test_sweeps_of_one_second_get_folders_of_their_own(command: Command, done: list[int]) -> None:
    for seeds in ("1,2", "3,4"):
        command("hydra.sweep.dir=a sweep/${now:%Y}", f"seed={seeds}", "-m")
    first, second = sorted(Path("a sweep").iterdir())
    assert second.name == f"{first.name}-2"
    for folder, seeds in ((first, ["1", "2"]), (second, ["3", "4"])):
        rows = list(csv.DictReader((folder / "results.csv").open()))
        assert [(row["job"], row["settings"], row["validation_loss"]) for row in rows] == [
            ("0", f"seed={seeds[0]}", seeds[0]),
            ("1", f"seed={seeds[1]}", seeds[1]),
        ]
        assert {path.name for path in folder.iterdir()} == {
            "0",
            "1",
            "multirun.yaml",
            "results.csv",
        }


def test_a_default_folder_that_was_just_taken_is_not_used(
    command: Command, done: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If another process makes the folder after its name was chosen, the next name is taken."""
    honest, taken = Path.mkdir, []

    def late(path: Path, *arguments: object, **options: object) -> None:
        if path.parent.parent.name in ("outputs", "sweeps") or path.parent.name == "sweeps":
            if not taken:
                honest(path)
            taken.append(path.name)
        honest(path, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", late)
    command()
    assert taken[1] == f"{taken[0]}-2"
    taken.clear()
    command("-m", "seed=1,2")
    assert taken[1] == f"{taken[0]}-2"
    assert (Path("outputs/sweeps") / taken[1] / "results.csv").exists()


def test_other_ranks_leave_the_claim_and_the_notes_to_the_first(
    command: Command,
    hold: Callable[..., subprocess.Popen[str]],
    done: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("run").mkdir()
    hold("run")
    before = contents("run")
    monkeypatch.setenv("RANK", "1")
    command("hydra.run.dir=run", "seed=7")
    assert done == [7]
    assert contents("run").keys() - before.keys() == {Path("run/summary.json")}


def test_a_job_of_a_sweep_in_which_somebody_works_is_refused_alone(
    command: Command, hold: Callable[..., subprocess.Popen[str]], done: list[int]
) -> None:
    begun("sweep/1")
    Path("sweep/1/checkpoints/last.ckpt").unlink()
    hold("sweep/1")
    before = contents("sweep/1")
    assert said(command, "hydra.sweep.dir=sweep", "seed=1,2,3", "-m").startswith(
        "error: 1 of 3 jobs failed"
    )
    assert done == [1, 3]
    assert contents("sweep/1") == before
    with Path("sweep/results.csv").open() as file:
        rows = {row["job"]: row for row in csv.DictReader(file)}
    assert [rows[job]["status"] for job in "012"] == ["finished", "failed", "finished"]
    assert "sweep/1 is in use by process" in rows["1"]["reason"]
    assert not Path("sweep/0/.lock").exists()


def test_missing_locks_are_warned_of_once(
    command: Command,
    done: list[int],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    command("hydra.run.dir=run", "seed=5")
    assert done == [5]
    [warning] = [line for line in capfd.readouterr().err.splitlines() if "no locks" in line]
    assert f"{Path('run').absolute()}: " in warning
    assert "No locks available" in warning


def test_a_lock_on_a_deleted_file_is_taken_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The last owner may delete it between our open(2) and our flock(2)."""
    import fcntl

    honest, calls = fcntl.flock, []

    def deleted(handle: int, how: int) -> None:
        if not calls:
            Path(".lock").unlink()
        calls.append(handle)
        honest(handle, how)

    monkeypatch.setattr("fcntl.flock", deleted)
    claims.claim(Path(), "key")
    assert Path(".lock").read_text().startswith(f"process {os.getpid()} on ")


def test_one_of_two_commands_in_one_folder_is_refused(checkpoint: Path) -> None:
    """Real processes are started together: one trains, and the other leaves nothing."""
    tiny = [
        f"model.checkpoint={checkpoint}",
        "model.allow_untrained=true",
        "data.prompt=alpaca",
        "data.sample=40",
        "eval.sample=false",
    ]
    tiny += ["max_steps=2", "device=cpu", "precision=32", "logger=none", "hydra.run.dir=run"]
    root = Path(__file__).parents[1]
    both = [Forked(str(root / "train.py"), *tiny, f"seed={seed}", folder=Path()) for seed in (1, 2)]
    ended = [command.finish() for command in both]
    told = [done.stderr.decode() for done in ended]
    assert sorted(done.returncode for done in ended) == [0, 1]
    [seed] = [index + 1 for index, done in enumerate(ended) if done.returncode == 0]
    assert "hydra.run.dir: " in told[2 - seed]
    assert "in use by" in told[2 - seed]
    assert f"seed={seed}" in Path("run/.hydra/overrides.yaml").read_text()
    assert json.loads(Path("run/summary.json").read_text())["seed"] == seed
    assert [line.split(",")[0] for line in Path("run/metrics.csv").read_text().splitlines()] == [
        "step",
        "0",
        "1",
        "2",
    ]
