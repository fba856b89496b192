"""One evaluation, from a model's folder to the files that hold its numbers.

Read `evaluate` first: it lists what an evaluation is. evaluate.py imports this file only when the
config has been checked, since torch takes seconds to import.
"""

import dataclasses
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from sft.atomic import locked, make_folder, write_json
from sft.config.schema import EvaluateConfig
from sft.data.overview import unused_text
from sft.data.prompt import END, same_prompts
from sft.data.records import Record
from sft.dataclass_json import to_json
from sft.device import AnswerPrecision, keep_freed_memory, pick_answer_precision, pick_device
from sft.errors import InputError, counted
from sft.evaluation.answers import (
    AnswerFile,
    Decoding,
    answer_keys,
    answer_share,
    collect_shares,
    unanswered,
)
from sft.evaluation.compare import compare, comparison_text, evaluated_runs, read_evaluation
from sft.evaluation.duplicates import duplicates
from sft.evaluation.groups import compare_groups, grouped, groups_text, keep, read_member
from sft.evaluation.labels import KEPT, Label, beside_labels, kept_labels
from sft.evaluation.mbu import add_speeds
from sft.evaluation.measure import (
    EncodedRecords,
    ModelResult,
    encode_records,
    load_and_measure,
    noisiest,
)
from sft.evaluation.pages import write_pages
from sft.evaluation.results import examples_text, responses, rows_of
from sft.evaluation.setup import Setup, load_setup
from sft.evaluation.summary import means_of, table
from sft.evaluation.templates import encode_wordings, measure_wordings, wordings_text
from sft.judge.ask import connect
from sft.judge.score import check_judged, judge_answers
from sft.prompts import PROMPTS
from sft.report.card import write_card
from sft.scoring.results import (
    DataEvaluated,
    EvaluationSummary,
    JudgeSummary,
    RecordResult,
    TrainingRecords,
    write_results,
)
from sft.summaries import versions

log = logging.getLogger("sft")


class Launch(Protocol):
    """Calls a function in one process for each device."""

    def __call__(self, devices: int, function: Callable[..., None], *arguments: Any) -> None: ...


def evaluate(
    config: EvaluateConfig, given: list[str], log_to: Callable[[Path], None], launch: Launch
) -> None:
    """Evaluate a model.

    Args:
        given: the keys that were given on the command line.
        log_to: makes the log go to a file too.
        launch: starts the processes, if there are several devices.

    Raises:
        InputError: what the user gave does not fit, or another evaluation uses the folder, or a
            judge judged nothing.
    """
    device = pick_device(config.device, config.devices)
    precision = pick_answer_precision(config.precision, device)
    keep_freed_memory()

    # A quick look at a few records should not wait for many records of training.
    if config.limit is not None and "train_records" not in given:
        config = dataclasses.replace(config, train_records=min(config.limit, config.train_records))

    # Load what is evaluated. Whatever can be refused is refused here, before any answer is made.
    setup = load_setup(config)
    check_template(config, given, setup)
    records = setup.records(config.split, config.limit)
    encoded = encode_for_models(config, setup, records)
    check_pairs(config, setup)
    wordings = encode_wordings(config, setup, records)
    judge = connect(config.judge)
    labels = kept_labels(setup.folder)

    make_folder(setup.folder)
    busy = f"{setup.folder}: another evaluation is at work there; wait for it, or end it"
    with locked(setup.folder / ".lock", refuse=busy):
        log_to(setup.folder / "evaluate.log")
        log_start(config, setup, encoded)
        began = time.perf_counter()

        decoding = Decoding.of(config.generate, config.seed, precision, setup.models.values())
        file = AnswerFile(setup.folder / "answers.jsonl")
        results = answer_and_measure(config, encoded, device, decoding, file, launch)

        # Gather what is known of each record, and ask the judge.
        known = setup.used_for_tuning(config.split)
        rows = rows_of(records, results, duplicates(records, known or []))
        judged = judge_answers(judge, rows, records, setup.folder) if judge else None
        if labels:
            judged = with_labels(judged, rows, labels, setup.folder)

        # Summarise, write, show.
        summary = EvaluationSummary(
            split=config.split,
            judge=judged,
            **means_of(rows, results, duplicates_known=known is not None),
            **origin(config, setup, encoded, results, device, precision, decoding, began),
        )
        add_speeds(summary, results, device)
        write_files(setup, rows, summary)
        show(setup.folder, rows, summary)
        if wordings:
            own = [row.tuned for row in rows]
            apart = setup.folder / "templates"
            found = measure_wordings(
                wordings, setup.template, own, apart, device, decoding, config.batch_size
            )
            log.info(f"\n{wordings_text(found)}\n\nall of it: {apart / 'templates.json'}")
        check_judged(summary, setup.folder)


# The parts, in the order in which `evaluate` calls them


def check_template(config: EvaluateConfig, given: list[str], setup: Setup) -> None:
    """Raise InputError if `data.prompt` names another template than the model was tuned with."""
    name = config.data.prompt
    if "data.prompt" in given and name and not same_prompts(setup.template, PROMPTS[name]):
        raise InputError(
            f"data.prompt: {config.checkpoint} was tuned with another template, which it keeps; "
            "leave it out"
        )


def encode_for_models(
    config: EvaluateConfig, setup: Setup, records: list[Record]
) -> dict[str, EncodedRecords]:
    """Encode the records for each model, and some training records for the tuned one."""
    encoded = {}
    for name, checkpoint in setup.models.items():
        training = setup.training_records() if name == "tuned" else []
        encoded[name] = encode_records(
            name,
            checkpoint,
            records,
            setup.template,
            setup.data,
            config.split,
            training[: config.train_records],
        )
    return encoded


def check_pairs(config: EvaluateConfig, setup: Setup) -> None:
    """Raise InputError if the judge is to compare with a base that is missing."""
    if config.judge.mode == "pairwise" and setup.no_base:
        raise InputError(f"judge.mode: pairwise compares with the base, but {setup.no_base}")


def log_start(config: EvaluateConfig, setup: Setup, encoded: dict[str, EncodedRecords]) -> None:
    """Show what is evaluated, and what cannot be."""
    tuned = encoded["tuned"]
    log.info(
        f"{counted(len(tuned.records), 'record')} of the {config.split} split "
        f"(data.split={setup.data.split} of {len(setup.source.records)} in all), for "
        f"{tuned.checkpoint.source}"
    )
    if unused := unused_text(setup.source.name, setup.source.unused, setup.source.keys):
        log.info(unused)
    for name, one in encoded.items():
        for line in one.unasked():
            log.warning(f"{name}: {line}")
    for name, checkpoint in setup.models.items():
        if checkpoint.ends:
            log.info(
                f"{name}: its answers also end at {', '.join(checkpoint.ends)}; its losses count "
                f"{END} as their end"
            )
    if setup.no_base:
        log.info(f"no base to compare with: {setup.no_base}")


def answer_and_measure(
    config: EvaluateConfig,
    encoded: dict[str, EncodedRecords],
    device: str,
    decoding: Decoding,
    file: AnswerFile,
    launch: Launch,
) -> dict[str, ModelResult]:
    """Answer the records and measure the answers, one model at a time."""
    collect_shares(file)
    for name, one in encoded.items():
        keys = answer_keys(one.prompts, one.checkpoint.sha256, decoding)
        if known := sum(key in file.by_key for key in keys):
            log.info(f"{name}: {known} of {len(keys)} answers are there already, and used again")
    if config.devices > 1:
        answer_in_processes(config, encoded, device, decoding, file, launch)
    results = {}
    for name, one in encoded.items():
        results[name] = load_and_measure(
            one, device, decoding.precision, decoding, file, config.batch_size
        )
    return results


def answer_in_processes(
    config: EvaluateConfig,
    encoded: dict[str, EncodedRecords],
    device: str,
    decoding: Decoding,
    file: AnswerFile,
    launch: Launch,
) -> None:
    """Divide the missing answers among one process for each device, one model at a time."""
    for name, one in encoded.items():
        checkpoint = one.checkpoint
        launch(
            config.devices,
            answer_share,
            checkpoint.source,
            checkpoint.revision,
            device,
            unanswered(one.prompts, checkpoint.sha256, decoding, file),
            decoding,
            file.path,
            config.batch_size,
            name,
        )
        collect_shares(file)


def with_labels(
    judge: JudgeSummary | None, rows: list[RecordResult], labels: list[Label], folder: Path
) -> JudgeSummary | None:
    """Add to the judge's part of the summary what the folder's labels say of it."""
    if judge is None:
        log.info(
            f"the labels in {folder / KEPT} were not compared, as there is no judge; add judge="
        )
        return None
    return dataclasses.replace(judge, labels=beside_labels(rows, labels))


def origin(
    config: EvaluateConfig,
    setup: Setup,
    encoded: dict[str, EncodedRecords],
    results: dict[str, ModelResult],
    device: str,
    precision: AnswerPrecision,
    decoding: Decoding,
    began: float,
) -> dict[str, Any]:
    """Return the part of the summary that says what the numbers were made of, and how."""
    return {
        "no_base": setup.no_base,
        "noisiest_training_records": noisiest(encoded["tuned"], results["tuned"]),
        "training_records": TrainingRecords(
            looked_at=len(encoded["tuned"].training), of=len(setup.training_records())
        ),
        "seconds": round(time.perf_counter() - began, 2),
        "template": setup.template,
        "decoding": decoding.in_summary(),
        "device": device,
        "precision": precision,
        "data": DataEvaluated(setup.source.name, setup.source.sha256, setup.split_sizes()),
        "versions": versions(),
        "config": dataclasses.asdict(dataclasses.replace(config, data=setup.data)),
    }


def write_files(setup: Setup, rows: list[RecordResult], summary: EvaluationSummary) -> None:
    """Write the evaluation's files, and the model card of a run.

    Raises:
        InputError: a file cannot be written.
    """
    folder = setup.folder
    write_json(folder / "responses.json", responses(rows))
    write_results(folder, rows, summary)
    write_pages(folder, setup.run, rows, summary)
    if setup.run is not None:
        write_card(setup.run)


def show(folder: Path, rows: list[RecordResult], summary: EvaluationSummary) -> None:
    """Show a few answers, the main numbers, and where the rest is."""
    log.info(
        f"\n{examples_text(rows)}\n\n{table(summary)}\n\nto look at: {folder / 'report.html'}\n"
        f"all answers: {folder / 'responses.json'}\nall numbers: {folder / 'summary.json'}"
    )


def compare_runs(runs: list[str], out: str | None) -> None:
    """Compare evaluations that were made before, and keep the numbers in `out` if it is given.

    Two runs are compared record by record. More, or the jobs of a sweep, are compared in groups.

    Raises:
        InputError: there are no such evaluations, or they are not of the same records.
    """
    found = evaluated_runs(runs)
    folder = Path(out).expanduser() if out is not None else None
    if folder is not None:
        make_folder(folder)

    if len(found) == 2:
        first, second = found
        pair = compare(read_evaluation(first), read_evaluation(second))
        print(comparison_text(pair))
        if folder is not None:
            write_json(folder / "comparison.json", to_json(pair))
            print(f"\nall numbers: {folder / 'comparison.json'}")
        return

    groups = grouped([read_member(Path(name), evaluated=True) for name in found])
    compared = compare_groups(groups, "exact_match")
    print(groups_text(compared))
    if folder is not None:
        print(f"\nto look at: {keep(folder, groups, compared)}")
