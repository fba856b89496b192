"""Answer held-out instructions and measure the answers: `python evaluate.py --help`."""

import dataclasses
import logging
import sys
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig

from sft.cli import job, log_to, run
from sft.config import PROMPTS, EvaluateConfig, InputError
from sft.merge import from_hydra


@hydra.main(version_base="1.3", config_path="conf", config_name="evaluate")
def main(composed: Any) -> None:
    """Check the config, answer, measure."""
    with job():
        config = from_hydra(EvaluateConfig, composed)
        given = [override.lstrip("+~").split("=")[0] for override in HydraConfig.get().overrides.task]
        check_given(config, given)
        evaluate(config, given)


def check_given(config: EvaluateConfig, given: list[str]) -> None:
    """Raises InputError for a key that was given on the command line but would not be used."""
    if config.checkpoint is not None and "run" in given:
        raise InputError("run: given beside checkpoint=; give one of them")
    for key in given:
        if config.checkpoint is None and (key == "revision" or key.split(".")[0] == "data"):
            raise InputError(f"{key}: a run is evaluated on its own data and base; other data goes with checkpoint=")
        if config.judge.kind == "none" and key.startswith("judge."):
            raise InputError(f"{key}: would not be read without a judge; add judge=ollama or judge=openai")


def evaluate(config: EvaluateConfig, given: list[str]) -> None:
    """The evaluation, from a model's folder to its numbers; all that can be refused is refused before any answer."""
    from sft.evaluation.answers import AnswerFile, Decoding
    from sft.evaluation.exam import prepare, take
    from sft.evaluation.results import LOSS_IS, by_category, examples_text, numbers, responses, table
    from sft.evaluation.subject import subject_of_checkpoint, subject_of_run
    from sft.gpt2.device import keep_freed_memory, pick_device, pick_precision
    from sft.summary import make_folder, versions, write_json

    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    decoding = Decoding(**dataclasses.asdict(config.generate), seed=config.seed, precision=precision)
    keep_freed_memory()

    subject = subject_of_run(config.run) if config.checkpoint is None else subject_of_checkpoint(config)
    if "data.prompt" in given and subject.template != PROMPTS[config.data.prompt]:
        raise InputError(
            f"data.prompt: {config.checkpoint} was tuned with another template, which it keeps; leave it out"
        )
    records = subject.records(config.split, config.limit)
    exams = {
        name: prepare(name, checkpoint, records, subject.template, subject.data, config.split)
        for name, checkpoint in subject.models.items()
    }
    make_folder(subject.folder)
    file = AnswerFile(subject.folder / "answers.jsonl")
    log_to(subject.folder / "evaluate.log")
    log = logging.getLogger("sft")
    log.info(f"{len(records)} records of the {config.split} split, for {subject.models['tuned'].source}")
    if subject.alone:
        log.info(f"no base beside it: {subject.alone}")

    results = {name: take(exam, device, precision, decoding, file, config.batch_size) for name, exam in exams.items()}
    rows = responses(records, results)
    means = {name: numbers(result) for name, result in results.items()}
    summary = {
        "split": config.split,
        "records": len(records),
        "loss_is": LOSS_IS,
        "tuned": means["tuned"],
        "base": means.get("base"),
        "no_base": subject.alone,
        "exact_match_by_category": by_category(records, results),
        "template": subject.template,
        "decoding": dataclasses.asdict(decoding),
        "device": device,
        "precision": precision,
        "seconds": sum(mean["seconds"] for mean in means.values()),
        "data": {"path": str(subject.source.path), "sha256": subject.source.sha256},
        "versions": versions(),
        "config": dataclasses.asdict(dataclasses.replace(config, data=subject.data)),
    }
    write_json(subject.folder / "responses.json", rows)
    write_json(subject.folder / "summary.json", summary)
    log.info(f"\n{examples_text(rows)}\n\n{table(means, len(records))}\n")
    log.info(f"all answers: {subject.folder / 'responses.json'}\nall numbers: {subject.folder / 'summary.json'}")


if __name__ == "__main__":
    if {"-m", "--multirun"} & set(sys.argv):
        sys.exit("error: --multirun: evaluate.py takes one run or checkpoint; call it once for each")
    run(main)
