"""evaluate.py as it is used: on a run, on a checkpoint, killed and called again, refused."""

import hashlib
import importlib.util
import json
import math
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from sft.atomic import locked
from sft.metrics import TEXT_METRICS, score
from sft.prompts import PROMPTS
from tests.forked import Command
from tests.judge.judge_server import Site

DOOR = Path(__file__).parents[2] / "evaluate.py"
CHEAP = ["device=cpu", "precision=32"]


@pytest.fixture(scope="module")
def door() -> ModuleType:
    spec = importlib.util.spec_from_file_location("evaluate", DOOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.main.__wrapped__.__module__ = "__main__"  # Hydra then looks for conf/ beside the file
    return module


@pytest.fixture
def call(door: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Calls evaluate.py with overrides, in this process, from `tmp_path`."""
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # which it sets
    monkeypatch.setenv("SFT_ONE_LINE", "")
    monkeypatch.chdir(tmp_path)

    def with_overrides(*overrides: Any) -> None:
        after = any(str(one).startswith(("compare=", "labels=")) for one in overrides)
        cheap = [] if after else CHEAP
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *cheap, *map(str, overrides)])
        door.run(door.main)

    return with_overrides


def start(folder: Path, *overrides: str) -> Command:
    return Command(str(DOOR), *CHEAP, *overrides, folder=folder)


def read(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {path}")

    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_run_is_evaluated_into_its_own_folder(
    run_folder: Path, data: Path, tmp_path: Path
) -> None:
    latest = tmp_path / "outputs" / "latest"
    latest.parent.mkdir()
    latest.symlink_to("../run")
    done = start(tmp_path, "batch_size=4", "generate.max_new_tokens=12").finish()
    assert done.returncode == 0, done.stderr
    output = done.stdout.decode()

    rows, summary = (
        read(run_folder / "evaluation" / f"{name}.json") for name in ("responses", "summary")
    )
    expected = [
        {key: row[key] for key in ("instruction", "input", "output")}
        for row in json.loads(data.read_text())
    ]
    assert [
        {key: row[key] for key in ("instruction", "input", "output")} for row in rows
    ] == expected[8:18]
    assert all(
        set(row) == {"instruction", "input", "output", "model_response", "base_response"}
        for row in rows
    )
    for name, key in (("tuned", "model_response"), ("base", "base_response")):
        scores = [score(row[key], row["output"]) for row in rows]
        for metric in TEXT_METRICS:
            assert summary[name][metric] == pytest.approx(
                sum(row[metric] for row in scores) / 10, abs=1e-6
            )
        assert summary[name]["perplexity"] == pytest.approx(math.exp(summary[name]["loss"]))
        assert 0 < summary[name]["never_stopped"] <= 10
    assert summary["tuned"]["loss"] != summary["base"]["loss"]
    assert summary["exact_match_by_category"]["odd"]["records"] == 5
    assert (summary["records"], summary["device"], summary["precision"]) == (10, "cpu", "32-true")
    card = (run_folder / "model" / "README.md").read_text()
    assert f"| token F1 | {summary['base']['token_f1']:.3f} (" in card
    assert "10 records of the test split" in card

    for word in (
        "Add 10 and 1.",
        "expected  11",
        "base",
        "tuned",
        "token F1",
        "perplexity",
        "evaluation/summary.json",
    ):
        assert word in output
    assert output.count("expected  ") == 3
    assert latest.readlink() == Path("../run")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "base",
        "data.json",
        "outputs",
        "run",
    ]
    assert sorted(path.name for path in run_folder.iterdir()) == [
        "evaluation",
        "model",
        "summary.json",
    ]
    assert sorted(path.name for path in (run_folder / "evaluation").iterdir()) == [
        ".lock",
        "answers.jsonl",
        "evaluate.log",
        "records.jsonl",
        "report.html",
        "report.md",
        "responses.json",
        "summary.json",
    ]


def test_a_killed_evaluation_continues_to_the_same_answers(
    run_folder: Path, tmp_path: Path, call: Callable[..., None]
) -> None:
    answers = run_folder / "evaluation" / "answers.jsonl"
    started = start(tmp_path, f"run={run_folder}", "batch_size=1")
    while started.process.is_alive() and not (
        answers.exists() and answers.read_bytes().count(b"\n") > 2
    ):
        time.sleep(0.005)
    started.process.kill()
    assert started.finish().returncode == -signal.SIGKILL
    kept = answers.read_bytes().splitlines(keepends=True)
    assert 3 <= len(kept) < 20
    assert not (run_folder / "evaluation" / "responses.json").exists()

    call(f"run={run_folder}")
    lines = answers.read_bytes().splitlines(keepends=True)
    assert lines[:3] == kept[:3]
    assert len({json.loads(line)["key"] for line in lines}) == len(lines) == 20
    interrupted = (run_folder / "evaluation" / "responses.json").read_text()
    answers.unlink()
    call(f"run={run_folder}")
    assert (run_folder / "evaluation" / "responses.json").read_text() == interrupted


@pytest.fixture
def with_a_long_prompt(run_folder: Path, data: Path) -> Path:
    """The run, on data whose record 10, the third of the test, is longer than the context."""
    records = json.loads(data.read_text())
    records[10]["instruction"] = "~" * 200
    data.write_text(json.dumps(records))
    summary = json.loads((run_folder / "summary.json").read_text())
    summary["data"]["sha256"] = hashlib.sha256(data.read_bytes()).hexdigest()
    (run_folder / "summary.json").write_text(json.dumps(summary))
    return run_folder


def test_several_processes_answer_each_record_once(
    with_a_long_prompt: Path, call: Callable[..., None]
) -> None:
    run, folder = with_a_long_prompt, with_a_long_prompt / "evaluation"
    call(f"run={run}", "generate.max_new_tokens=12")
    alone = read(folder / "responses.json")
    assert [row["model_response"] is None for row in alone] == [number == 2 for number in range(10)]
    lines = (folder / "answers.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "answers.jsonl").write_bytes(b"".join(lines[:3]))
    (folder / "answers.1.jsonl").write_bytes(lines[3] + b'{"torn')  # of a process that was killed
    call(f"run={run}", "generate.max_new_tokens=12", "devices=2")
    assert read(folder / "responses.json") == alone
    again = (folder / "answers.jsonl").read_bytes().splitlines(keepends=True)
    assert sorted(again) == sorted(lines)
    assert again[:4] == lines[:4]
    assert not list(folder.glob("answers.*.jsonl"))
    assert "of 9 answers are there already" in (folder / "evaluate.log").read_text()


def judged(run: Path, ollama: Site, *more: str) -> list[str]:
    return [
        f"run={run}",
        "generate.max_new_tokens=5",
        "judge=ollama",
        f"judge.url={ollama.url}",
        "judge.retries=0",
        *more,
    ]


def test_a_judge_scores_each_answer_once(
    run_folder: Path, call: Callable[..., None], ollama: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    call(*judged(run_folder, ollama, "judge.audit=4"))
    summary = read(run_folder / "evaluation" / "summary.json")
    rows = [
        json.loads(line)
        for line in (run_folder / "evaluation" / "records.jsonl").read_text().splitlines()
    ]
    scores = [row["tuned"]["score"] for row in rows]
    assert summary["tuned"]["judge"]["mean"] == pytest.approx(sum(scores) / 10)
    assert summary["tuned"]["judge"]["status"] == {"scored": 10}
    assert summary["tuned_against_base"]["score"]["records"] == 10
    assert set(summary["score_by_category"]) == {"odd", "even"}
    judge = summary["judge"]
    assert (judge["kind"], judge["model"], judge["warning"]) == ("ollama", "llama3:latest", None)
    assert judge["coverage"] == {"tuned": 1, "base": 1}
    assert judge["audit"]["records"] == 4
    assert judge["audit"]["means"]["expected"] == 100
    assert judge["audit"]["means"]["empty"] == 0
    assert judge["audit"]["auc"] == 1
    assert "can tell right from wrong" in capsys.readouterr().out
    assert "can tell right from wrong" in (run_folder / "evaluation" / "report.html").read_text()
    asked = len(ollama.chats)
    call(*judged(run_folder, ollama, "judge.audit=4"))
    assert len(ollama.chats) == asked
    assert (
        read(run_folder / "evaluation" / "summary.json")["tuned"]["judge"]
        == summary["tuned"]["judge"]
    )


def test_labels_are_compared_again_by_later_evaluations(
    run_folder: Path, call: Callable[..., None], ollama: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    call(*judged(run_folder, ollama, "judge.audit=0", "limit=2"))
    lines = (run_folder / "evaluation" / "records.jsonl").read_text().splitlines()
    answers = [json.loads(line)["tuned"]["text"] for line in lines]
    labels = [
        {"record": number, "model": "tuned", "answer": answer, "score": 10 * number}
        for number, answer in enumerate(answers, 1)
    ]
    Path("mine.json").write_text(json.dumps({"labels": labels}))
    call(f"run={run_folder}", "labels=mine.json")
    first = read(run_folder / "evaluation" / "summary.json")["judge"]["labels"]
    assert first["models"]["tuned"]["labels"] == 2

    # Its own file is not needed any more, and a label of an answer that has changed is left out.
    Path("mine.json").unlink()
    kept = read(run_folder / "evaluation" / "labels.json")
    kept["labels"][1]["answer"] += " changed"
    (run_folder / "evaluation" / "labels.json").write_text(json.dumps(kept))
    capsys.readouterr()
    call(*judged(run_folder, ollama, "judge.audit=0", "limit=2"))
    again = read(run_folder / "evaluation" / "summary.json")["judge"]["labels"]
    assert (again["models"]["tuned"]["labels"], again["left_out"]) == (1, 1)
    assert "tuned: 1 label" in capsys.readouterr().out


def test_a_judge_compares_pairs_instead_of_scoring(
    run_folder: Path, call: Callable[..., None], ollama: Site
) -> None:
    call(*judged(run_folder, ollama, "judge.mode=pairwise"))
    summary = read(run_folder / "evaluation" / "summary.json")
    pairwise = summary["judge"]["pairwise"]
    assert (pairwise["wins"], pairwise["ties"], pairwise["losses"], pairwise["unjudged"]) == (
        0,
        10,
        0,
        0,
    )
    assert "within noise" in pairwise["verdict"]
    rows = (run_folder / "evaluation" / "records.jsonl").read_text().splitlines()
    assert [json.loads(row)["preferred"] for row in rows] == ["tie"] * 10
    assert summary["tuned"]["judge"] is None


def test_an_evaluation_without_one_judged_answer_fails(
    run_folder: Path, call: Callable[..., None], ollama: Site
) -> None:
    ollama.judge = lambda messages: "no number here"
    with pytest.raises(
        SystemExit, match=r"none of the tuned model's answers has been judged \(unparsed 10\)"
    ):
        call(*judged(run_folder, ollama))
    summary = read(run_folder / "evaluation" / "summary.json")
    assert summary["tuned"]["judge"]["mean"] is None
    assert summary["judge"]["warning"].startswith("Only 0% of the tuned answers could be judged")


def test_a_missing_judge_is_refused_before_any_answer(
    run_folder: Path, call: Callable[..., None]
) -> None:
    with pytest.raises(
        SystemExit, match=r"error: judge\.url: no Ollama server at .*:9 .*`ollama serve`"
    ):
        call(f"run={run_folder}", "judge=ollama", "judge.url=http://127.0.0.1:9")
    assert not (run_folder / "evaluation").exists()


def test_a_second_evaluation_of_one_run_is_refused(
    run_folder: Path, call: Callable[..., None]
) -> None:
    (run_folder / "evaluation").mkdir()
    with (
        locked(run_folder / "evaluation" / ".lock"),
        pytest.raises(SystemExit, match="another evaluation is at work there"),
    ):
        call(f"run={run_folder}")
    assert {path.name for path in (run_folder / "evaluation").iterdir()} == {".lock"}


def test_torchrun_is_refused(call: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit, match=r"torchrun: evaluate\.py "):
        call("run=somewhere")


def test_duplicates_are_counted_only_if_the_training_records_are_known(
    run_folder: Path, data: Path, call: Callable[..., None]
) -> None:
    call(
        f"checkpoint={run_folder / 'model'}",
        "data=json",
        f"data.path={data}",
        "out=theirs",
        "limit=3",
    )
    summary = read(Path("theirs/summary.json"))
    assert summary["duplicates"] is None
    assert summary["noisiest_training_records"] == []
    assert summary["data"]["splits"]["train"] == {"records": 17}
    call(f"run={run_folder}", "limit=3", "split=train", "train_records=4")
    summary = read(run_folder / "evaluation" / "summary.json")
    assert {row["record"] for row in summary["noisiest_training_records"]} == {1, 2, 3, 4}
    assert summary["training_records"] == {"looked_at": 4, "of": 8}


def test_a_limit_takes_the_first_records_and_their_kept_answers(
    run_folder: Path, call: Callable[..., None]
) -> None:
    call(f"run={run_folder}", "limit=4", "split=train")
    whole = (run_folder / "evaluation" / "answers.jsonl").read_bytes()
    rows = read(run_folder / "evaluation" / "responses.json")
    assert [row["output"] for row in rows] == ["1", "2", "3", "4"]
    call(f"run={run_folder}", "limit=2", "split=train")
    assert read(run_folder / "evaluation" / "responses.json") == rows[:2]
    summary = read(run_folder / "evaluation" / "summary.json")
    assert summary["training_records"] == {"looked_at": 2, "of": 8}
    assert (run_folder / "evaluation" / "answers.jsonl").read_bytes() == whole


def test_a_checkpoint_without_a_base_is_evaluated_on_other_data(
    data: Path,
    tmp_path: Path,
    call: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    make_checkpoint: Any,
) -> None:
    plain = [
        {key: row[key] for key in ("instruction", "output")} for row in json.loads(data.read_text())
    ]
    data.write_text("\n".join(map(json.dumps, plain)))
    checkpoint = make_checkpoint(tmp_path / "model", seed=5)
    call(
        f"checkpoint={checkpoint}",
        "data=json",
        f"data.path={data}",
        "data.prompt=phi3",
        "out=theirs",
        "limit=1",
    )
    [row] = read(tmp_path / "theirs" / "responses.json")
    summary = read(tmp_path / "theirs" / "summary.json")
    assert row["base_response"] is summary["base"] is summary["exact_match_by_category"] is None
    assert "does not name its base" in summary["no_base"]
    assert summary["template"] == PROMPTS["phi3"]
    assert "no base to compare with: " in capsys.readouterr().out


def test_compare_writes_the_differences_of_two_runs(
    run_folder: Path, tmp_path: Path, call: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    call(f"run={run_folder}")
    other = shutil.copytree(run_folder, tmp_path / "other")
    shutil.copytree(tmp_path / "base", other / "model", dirs_exist_ok=True)
    (other / "model" / "tokenizer_config.json").write_text(
        (run_folder / "model/tokenizer_config.json").read_text()
    )
    call(f"run={other}")
    capsys.readouterr()
    call(f"compare=[{run_folder},{other}]", "out=apart")
    shown, kept = capsys.readouterr().out, read(tmp_path / "apart" / "comparison.json")
    losses = [
        read(run / "evaluation" / "summary.json")["tuned"]["loss"] for run in (run_folder, other)
    ]
    assert kept["differences"]["loss"]["difference"] == pytest.approx(losses[0] - losses[1])
    assert kept["differences"]["loss"]["verdict"] in shown
    assert (kept["differing_settings"], kept["judges_differ"]) == ([], False)


def test_another_template_than_the_checkpoints_own_is_refused(
    run_folder: Path, call: Callable[..., None]
) -> None:
    with pytest.raises(SystemExit, match=r"data\.prompt: .*model was tuned with another template"):
        call(f"checkpoint={run_folder / 'model'}", "data.prompt=phi3", "out=theirs")


def test_answers_of_other_seeds_differ_and_are_kept_apart(
    run_folder: Path, call: Callable[..., None]
) -> None:
    sampling = [
        "generate.temperature=0.8",
        "generate.top_k=20",
        "generate.max_new_tokens=5",
        "limit=3",
    ]
    call(f"run={run_folder}", "precision=bf16-mixed", *sampling, "seed=1")
    first = read(run_folder / "evaluation" / "responses.json")
    call(f"run={run_folder}", "precision=bf16-mixed", *sampling, "seed=2")
    assert read(run_folder / "evaluation" / "responses.json") != first
    assert (run_folder / "evaluation" / "answers.jsonl").read_text().count("\n") == 12


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run=nowhere"], "run: nowhere is not there; train first"),
        (["data.split=[1,0,0]"], "data.split: a run is evaluated on its own data"),
        (
            ["data=json", "data.path=x.json", "data.sample=3"],
            "data.sample: a run is evaluated on its own data",
        ),
        (["data.path=x.json", "data=alpaca"], "a run is evaluated on its own data"),
        (["data.path=x.json", "checkpoint=m", "out=o"], "data.path: '"),
        (["data=alpaca"], "data: a run is evaluated on its own data"),
        (["revision=main"], "revision: a run is evaluated on its own data and base"),
        (["checkpoint=m", "out=o", "run=r"], "run: given beside checkpoint="),
        (["compare=[a,b]", "run=r"], "run: given beside compare="),
        (
            ["compare=[a,b]", "limit=3"],
            "limit: evaluations that exist are compared as they are",
        ),
        (["compare=[a]"], "compare: a has not been evaluated"),
        (["compare=a"], "compare: found 'a', expected a list"),
        (["compare=[a,b]"], "compare: a has not been evaluated"),
        (["checkpoint=m"], "out: missing; checkpoint= has no run folder"),
        (["out=o"], "out: only for checkpoint="),
        (["checkpoint=./m", "out=o"], "./m: no such folder"),
        (["checkpoint=./m", "out=o", "data=json"], "data.path: missing"),
        (["checkpoint=./m", "out=o", "data=json", "data.path=no.json"], "no.json: no such file"),
        (["limit=0"], "limit: 0 is out of range"),
        (["split=tests"], "split: unknown value 'tests'; expected one of test, validation, train"),
        (["generate.temperature=-1"], "generate.temperature: -1.0 is out of range"),
        (["generate.top_k=0"], "generate.top_k: 0 is out of range"),
        (
            ["generate.max_new_tokens=many"],
            "generate.max_new_tokens: found 'many', expected a whole number",
        ),
        (["+generate.beams=4"], "generate.beams: unknown key"),
        (["bath_size=4"], "bath_size: unknown key"),
        (["judge=llama"], "judge: unknown value 'llama'"),
        (
            ["judge.model=phi3"],
            "judge.model: would not be read without a judge; add judge=ollama or judge=openai",
        ),
        (["judge=openai"], "judge.model: missing"),
        (["judge=ollama", "judge.url=here"], "judge.url: 'here', expected the address of a server"),
        (["precision=16-mixed", "run=nowhere"], "precision: 16-mixed needs a GPU"),
        (["device=cuda", "run=nowhere"], "device: cuda is not available"),
    ],
)
def test_bad_input_gets_one_line_and_leaves_no_file(
    overrides: list[str],
    message: str,
    call: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        SystemExit, match=r"\Aerror: .*\Z"
    ) as error:  # one line: no dot matches its end
        call(*overrides)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())


def test_prompts_that_are_all_too_long_are_refused_before_any_answer(
    run_folder: Path, call: Callable[..., None]
) -> None:
    (run_folder / "model" / "tokenizer_config.json").write_text(
        json.dumps({"sft_prompt": "{{ instruction }}" * 20})
    )
    with pytest.raises(
        SystemExit, match=r"split: none of the 10 records .* of test .* expected 1 to 64"
    ):
        call(f"run={run_folder}")
    assert not (run_folder / "evaluation").exists()


def test_one_prompt_that_does_not_fit_leaves_the_rest_evaluated(
    with_a_long_prompt: Path,
    call: Callable[..., None],
    ollama: Site,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, folder = with_a_long_prompt, with_a_long_prompt / "evaluation"
    call(*judged(run, ollama, "judge.audit=10"))
    summary, rows = read(folder / "summary.json"), read(folder / "responses.json")
    for name in ("tuned", "base"):
        judge = summary[name]["judge"]
        assert summary[name]["not_asked"] == {"too long": 1}
        assert (judge["scored"], judge["of"], judge["status"]) == (9, 9, {"scored": 9})
    assert summary["judge"]["coverage"] == {"tuned": 1, "base": 1}
    assert summary["judge"]["audit"]["records"] == 9
    assert {one["records"] for one in summary["tuned_against_base"].values()} == {9}
    assert [row["model_response"] is None for row in rows] == [number == 2 for number in range(10)]
    assert not any("~~" in json.dumps(chat) for chat in ollama.chats)
    shown = capsys.readouterr().out
    assert "1 record, whose prompt is too long" in shown
    for report in ("report.md", "report.html"):
        assert "1 record, whose prompt is too long" in (folder / report).read_text()
    status = [
        json.loads(line)["tuned"]["status"]
        for line in (folder / "records.jsonl").read_text().splitlines()
    ]
    assert status == ["scored"] * 2 + ["too long"] + ["scored"] * 7

    call(*judged(run, ollama, "judge.mode=pairwise"))
    pairwise = read(folder / "summary.json")["judge"]["pairwise"]
    assert (pairwise["wins"] + pairwise["ties"] + pairwise["losses"], pairwise["unjudged"]) == (
        9,
        0,
    )

    other = shutil.copytree(run, run.with_name("other"))
    call(f"compare=[{run},{other}]")
    assert "not asked of the first: 1 record" in capsys.readouterr().out


@pytest.mark.parametrize("named", [[], ["data=json"]])
def test_a_run_and_its_data_can_move(
    run_folder: Path, data: Path, tmp_path: Path, call: Callable[..., None], named: list[str]
) -> None:
    moved, run = tmp_path / "moved.json", tmp_path / "elsewhere"
    call(f"run={run_folder}", "limit=3", "generate.max_new_tokens=3")
    before = read(run_folder / "evaluation" / "responses.json")
    data.rename(moved)
    run_folder.rename(run)
    with pytest.raises(
        SystemExit,
        match=r"data\.json: .*elsewhere .*data\.path=",
    ):
        call(f"run={run}", "limit=3", "generate.max_new_tokens=3")
    call(f"run={run}", "data.path=moved.json", *named, "limit=3", "generate.max_new_tokens=3")
    assert read(run / "evaluation" / "responses.json") == before
    assert read(run / "evaluation" / "summary.json")["data"]["path"] == str(moved)
    moved.write_text(moved.read_text() + " ")
    with pytest.raises(
        SystemExit,
        match=r"\Aerror: .*moved\.json: .*elsewhere.*\Z",
    ):
        call(f"run={run}", "data.path=moved.json", "limit=3")


def test_a_full_disk_leaves_what_was_there(run_folder: Path, call: Callable[..., None]) -> None:
    call(f"run={run_folder}", "limit=3")
    folder = run_folder / "evaluation"
    before = (folder / "responses.json").read_bytes()
    (folder / ".responses.json.part").symlink_to("/dev/full")
    with pytest.raises(
        SystemExit, match=r"responses.json: cannot be written \(No space left on device\)"
    ):
        call(f"run={run_folder}", "limit=2")
    assert (folder / "responses.json").read_bytes() == before


def test_the_command_itself_exits_with_one_line_for_a_mistake_and_a_sweep(tmp_path: Path) -> None:
    for arguments, message in (
        (["run=nowhere"], "error: run: nowhere is not there"),
        (["-m", "limit=1,2"], "error: --multirun: "),
    ):
        done = start(tmp_path, *arguments).finish()
        assert done.returncode == 1
        assert done.stderr.decode().startswith(message)
        assert b"Traceback" not in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())
