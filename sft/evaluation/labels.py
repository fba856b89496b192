"""Compare a person's labels with the judge's scores: `python evaluate.py run=FOLDER labels=FILE`.

The file is the one that `report.html` saves. Each label holds the answer that it scores. A label
whose answer has changed since does not count. The evaluation keeps the labels as `labels.json`, and
compares them with its judge each time it is made again.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from sft.atomic import locked, read_json, write_json
from sft.dataclass_json import to_json
from sft.errors import InputError, counted
from sft.evaluation.compare import read_evaluation
from sft.evaluation.pages import write_pages
from sft.latest import followed
from sft.scoring.labels import FEWEST, agreement, corrected_mean
from sft.scoring.results import SUMMARY, AnswerResult, LabelsSummary, ModelLabels, RecordResult
from sft.scoring.statistics import rank_correlation
from sft.shell import setting

# The labels of an evaluation, in its folder.
KEPT = "labels.json"


@dataclass(frozen=True)
class Label:
    """A person's score of one answer.

    Attributes:
        record: its number in the split, from 1.
        model: whose answer it is: tuned | base.
        answer: its text.
        score: from 0 to 100.
    """

    record: int
    model: str
    answer: str
    score: float

    def __post_init__(self) -> None:
        if type(self.record) is not int or self.model not in ("tuned", "base"):
            raise ValueError(f"record {self.record!r} of {self.model!r}")
        if type(self.score) not in (int, float) or not 0 <= self.score <= 100:
            raise ValueError(f"score {self.score!r} of record {self.record}")


def read_labels(path: Path) -> list[Label]:
    """Read a file of labels.

    Raises:
        InputError: it cannot be read, or is not one that the report saved.
    """
    content = read_json(path, "the labels that report.html saves")
    try:
        return [
            Label(one["record"], one["model"], one["answer"], one["score"])
            for one in content["labels"]
        ]
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"labels: {path}: not labels as report.html saves them ({type(error).__name__}: "
            f"{error}); expected a list `labels`, each with record, model (tuned or base), answer "
            "and score (0 to 100)"
        ) from error


def kept_labels(folder: Path) -> list[Label]:
    """Read the labels that an evaluation's folder keeps; none if it keeps none.

    Raises:
        InputError: as in `read_labels`.
    """
    path = folder / KEPT
    return read_labels(path) if path.exists() else []


def add_labels(run: str, file: str) -> None:
    """Compare the judge of an evaluation with a person's labels, and show it on its pages.

    Raises:
        InputError: there is no such evaluation, it has no judge's scores, or the labels are not of
            its answers.
    """
    labels = read_labels(Path(file).expanduser())
    evaluation = read_evaluation(run, "labels")
    judge = evaluation.summary.judge
    if judge is None or not any(row.tuned.score is not None for row in evaluation.rows):
        raise InputError(
            f"labels: {run} has no judge's scores to compare with; first: python evaluate.py "
            f"{setting('run', run)} judge=..."
        )
    found = beside_labels(evaluation.rows, labels)
    if not found.models:
        raise InputError(
            f"labels: none of the {counted(len(labels), 'label')} in {file} is of an answer in "
            f"{run} that the judge scored; label the answers in its report.html"
        )

    summary = replace(evaluation.summary, judge=replace(judge, labels=found))
    folder = evaluation.folder
    busy = f"{folder}: an evaluation is at work there; wait for it, or end it"
    with locked(folder / ".lock", refuse=busy):
        write_json(folder / KEPT, {"labels": to_json(labels)})
        write_json(folder / SUMMARY, to_json(summary))
        past = followed(run)
        write_pages(folder, past if past != folder else None, evaluation.rows, summary)
    print("\n".join(found.text))
    print(f"\nto look at: {folder / 'report.html'}")


def beside_labels(rows: list[RecordResult], labels: list[Label]) -> LabelsSummary:
    """Compare the judge with a person's labels."""
    models: dict[str, ModelLabels] = {}
    used = 0
    for name in ("tuned", "base"):
        answers = {row.record: answer for row in rows if (answer := _answer(row, name))}
        given: dict[int, float] = {}
        for label in labels:
            answer = answers.get(label.record)
            if label.model == name and answer is not None and answer.text == label.answer:
                given[label.record] = label.score
        used += len(given)
        if given:
            models[name] = _of_model(answers, given)

    text = [_in_words(name, found) for name, found in models.items()]
    left_out = len(labels) - used
    if left_out:
        text.append(
            f"{counted(left_out, 'label')} left out: the answer has changed, or has no score, or "
            "is labelled twice."
        )
    return LabelsSummary(models, left_out, text)


def _answer(row: RecordResult, model: str) -> AnswerResult | None:
    """Return a model's answer if the judge scored it, else None."""
    answer = row.tuned if model == "tuned" else row.base
    return answer if answer is not None and answer.score is not None else None


def _of_model(answers: dict[int, AnswerResult], given: dict[int, float]) -> ModelLabels:
    scores = {record: float(answer.score or 0) for record, answer in answers.items()}
    labels = np.array(list(given.values()), dtype=np.float64)
    labelled = np.array([scores[record] for record in given])
    others = np.array([score for record, score in scores.items() if record not in given])
    return ModelLabels(
        labels=len(given),
        missing=max(0, FEWEST - len(given)),
        person=float(labels.mean()),
        judge=float(np.mean(list(scores.values()))),
        agreement=agreement(labels.tolist(), labelled.tolist()),
        correlation=rank_correlation(labels.tolist(), labelled.tolist()),
        corrected=corrected_mean(labels, labelled, others) if len(given) >= FEWEST else None,
    )


def _in_words(name: str, found: ModelLabels) -> str:
    parts = [f"{name}: {counted(found.labels, 'label')}, on average {found.person:.1f}"]
    both = found.agreement
    if both is not None and both.kappa is not None:
        inside = f" ({both.interval[0]:.2f} to {both.interval[1]:.2f})" if both.interval else ""
        parts.append(f"Cohen's kappa with the judge {both.kappa:.2f}{inside}")
    if found.correlation is not None:
        parts.append(f"Spearman's correlation {found.correlation:.2f}")
    line = "; ".join(parts)
    if found.corrected is None:
        return (
            f"{line}. With {counted(found.missing, 'more label')}, the judge's mean of "
            f"{found.judge:.1f} can be corrected."
        )
    low, high = found.corrected.interval
    return (
        f"{line}. The judge's mean of {found.judge:.1f}, corrected by the labels, is "
        f"{found.corrected.mean:.1f} (95% interval {low:.1f} to {high:.1f})."
    )
