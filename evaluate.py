"""Answer held-out instructions and measure the answers: `python evaluate.py --help`."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig

import sft.config.help  # noqa: F401, the resolver of --help
from sft.config.loading import from_hydra
from sft.config.rules import check_given, given_keys
from sft.config.schema import EvaluateConfig
from sft.errors import InputError
from sft.launch import job, on_devices, run
from sft.logs import log_to
from sft.prompts import PROMPTS
from sft.summaries import read_run_summary, versions

if TYPE_CHECKING:
    from sft.device import Precision
    from sft.evaluation.exam import Exam
    from sft.evaluation.subject import Subject
    from sft.judge.judge import Judge


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(composed: Any) -> None:
    """Check the config, answer, measure."""
    with job():
        config = from_hydra(EvaluateConfig, composed)
        given = given_keys(HydraConfig.get().overrides.task)
        check_given(config, given)
        if "LOCAL_RANK" in os.environ:
            raise InputError(
                "torchrun: evaluate.py starts its processes itself; call it with python and devices=N"
            )
        if config.compare is None:
            evaluate(config, given)
        else:
            compare_runs(config.compare, config.out)


def evaluate(config: EvaluateConfig, given: list[str]) -> None:
    """The evaluation, from a model's folder to its numbers; all that can be refused is refused before any answer."""
    from sft.atomic import locked, make_folder
    from sft.data.overview import unused_text
    from sft.device import pick_device, pick_precision
    from sft.evaluation.exam import prepare
    from sft.evaluation.subject import subject_of_checkpoint, subject_of_run
    from sft.judge.ask import connect

    device = pick_device(config.device, config.devices)
    precision = pick_precision(config.precision, device)
    subject = (
        subject_of_run(config.run, config.data.path)
        if config.checkpoint is None
        else subject_of_checkpoint(config)
    )
    if "data.prompt" in given and subject.template != PROMPTS[config.data.prompt]:
        raise InputError(
            f"data.prompt: {config.checkpoint} was tuned with another template, which it keeps; leave it out"
        )
    records = subject.records(config.split, config.limit)
    trained_on = {"tuned": subject.training()[: config.train_records]}
    exams = {
        name: prepare(
            name,
            checkpoint,
            records,
            subject.template,
            subject.data,
            config.split,
            trained_on.get(name, []),
        )
        for name, checkpoint in subject.models.items()
    }
    if config.judge.mode == "pairwise" and subject.alone:
        raise InputError(f"judge.mode: pairwise compares with the base, but {subject.alone}")
    judge = connect(config.judge)
    make_folder(subject.folder)
    busy = f"{subject.folder}: another evaluation is at work there; wait for it, or end it"
    with locked(subject.folder / ".lock", refuse=busy):
        log_to(subject.folder / "evaluate.log")
        log, every = logging.getLogger("sft"), len(subject.source.records)
        log.info(
            f"{len(records)} records of the {config.split} split (data.split={subject.data.split} of {every} in all), "
            f"for {subject.models['tuned'].source}"
        )
        if unused := unused_text(subject.source.path, subject.source.unused):
            log.info(unused)
        for name, exam in exams.items():
            for line in exam.unasked():
                log.warning(f"{name}: {line}")
        if subject.alone:
            log.info(f"no base beside it: {subject.alone}")
        measure(config, subject, exams, judge, device, precision)


def measure(
    config: EvaluateConfig,
    subject: Subject,
    exams: dict[str, Exam],
    judge: Judge | None,
    device: str,
    precision: Precision,
) -> None:
    """Answers, losses, scores; and the files that hold them."""
    from sft.device import keep_freed_memory
    from sft.evaluation.answers import AnswerFile, Decoding, answer_share, gather, unanswered
    from sft.evaluation.duplicates import duplicates
    from sft.evaluation.exam import noisiest, take
    from sft.evaluation.results import rows_of
    from sft.evaluation.summary import summarise
    from sft.judge.score import judge_answers

    began = time.perf_counter()
    decoding = Decoding(
        **dataclasses.asdict(config.generate), seed=config.seed, precision=precision
    )
    keep_freed_memory()

    file = AnswerFile(subject.folder / "answers.jsonl")
    gather(file)
    for name, exam in exams.items() if config.devices > 1 else ():
        asked = unanswered(exam.prompts, exam.checkpoint.sha256, decoding, file)
        model = (exam.checkpoint.source, exam.checkpoint.revision, device)
        on_devices(
            config.devices,
            answer_share,
            *model,
            asked,
            decoding,
            file.path,
            config.batch_size,
            name,
        )
        gather(file)
    results = {
        name: take(exam, device, precision, decoding, file, config.batch_size)
        for name, exam in exams.items()
    }

    records, seen = exams["tuned"].records, subject.seen(config.split)
    rows = rows_of(records, results, duplicates(records, seen or []))
    judged = judge_answers(judge, rows, records, subject.folder) if judge else None
    summary = {"split": config.split, "judge": judged} | summarise(rows, results, seen is not None)
    summary |= {
        "no_base": subject.alone,
        "noisiest_training_records": noisiest(exams["tuned"], results["tuned"]),
        "training_records": {
            "looked_at": len(exams["tuned"].training),
            "of": len(subject.training()),
        },
        "seconds": round(time.perf_counter() - began, 2),
        "template": subject.template,
        "decoding": dataclasses.asdict(decoding),
        "device": device,
        "precision": precision,
        "data": {
            "path": str(subject.source.path),
            "sha256": subject.source.sha256,
            "splits": subject.sizes(),
        },
        "versions": versions(),
        "config": dataclasses.asdict(dataclasses.replace(config, data=subject.data)),
    }
    present(subject.folder, subject.run, rows, summary)


def present(
    folder: Path, run: Path | None, rows: list[dict[str, Any]], summary: dict[str, Any]
) -> None:
    """Write the evaluation's files, with the curves of the run if there was one, and the main numbers on the terminal;
    the run's model card gets them too.

    Raises:
        InputError: a file cannot be written; or a judge was asked and judged nothing.
    """
    from sft.atomic import read_numbers, write_json, write_json_lines
    from sft.evaluation.results import examples_text, responses
    from sft.evaluation.summary import table
    from sft.judge.score import check_judged
    from sft.report.card import write_card
    from sft.report.report import write_report

    write_json(folder / "responses.json", responses(rows))
    write_json_lines(folder / "records.jsonl", rows)
    write_json(folder / "summary.json", summary)
    metrics = read_numbers(run / "metrics.csv") if run and (run / "metrics.csv").exists() else None
    past = dataclasses.asdict(read_run_summary(run)) if run else None
    write_report(folder, summary, rows, past, metrics)
    if run:
        write_card(run)
    logging.getLogger("sft").info(
        f"\n{examples_text(rows)}\n\n{table(summary)}\n\nto look at: {folder / 'report.html'}\n"
        f"all answers: {folder / 'responses.json'}\nall numbers: {folder / 'summary.json'}"
    )
    check_judged(summary, folder)


def compare_runs(runs: list[str], out: str | None) -> None:
    """Set two evaluations side by side; with `out`, keep the numbers there."""
    from sft.atomic import make_folder, write_json
    from sft.evaluation.compare import compare, comparison_text, read_evaluation

    found = compare(*map(read_evaluation, runs))
    print(comparison_text(found))
    if out is not None:
        folder = Path(out).expanduser()
        make_folder(folder)
        write_json(folder / "comparison.json", found)
        print(f"\nall numbers: {folder / 'comparison.json'}")


if __name__ == "__main__":
    if {"-m", "--multirun"} & set(sys.argv):
        sys.exit(
            "error: --multirun: evaluate.py takes one run or checkpoint; call it once for each"
        )
    run(main, "; the same command goes on from there")
