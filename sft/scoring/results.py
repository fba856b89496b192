"""The results of an evaluation, typed, and the files that hold them.

`records.jsonl` has a line for each record, a `RecordResult`. `summary.json` is an
`EvaluationSummary`. In both, the values of a field `metrics` are written as keys of their own, so
that a new metric is a new key and no new field.
"""

import json
from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from sft.atomic import read_json, write_json, write_json_lines
from sft.errors import InputError
from sft.metrics import TEXT_METRICS

RECORDS = "records.jsonl"
SUMMARY = "summary.json"


@dataclass
class AnswerResult:
    """One model's result on one record.

    Attributes:
        text: the answer; None if the model was not asked, and then so is all that measures it.
        tokens: their number in the answer.
        finish_reason: `stop` if the model ended the answer, `length` if a limit did.
        metrics: of the answer's text, by name.
        loss: over the expected answer, in nats per token.
        loss_tokens: the number of tokens of the expected answer.
        status: the judge's; None without a judge. Of a record that was not asked: the reason.
        score: the judge's, from 0 to 100.
        reason: the judge's, in words.
    """

    text: str | None
    tokens: int | None
    finish_reason: str | None
    metrics: dict[str, float | None]
    loss: float | None
    loss_tokens: int
    status: str | None = None
    score: float | None = None
    reason: str | None = None

    @property
    def asked(self) -> bool:
        """Whether the model was asked the record."""
        return self.text is not None

    def value(self, metric: str) -> float | None:
        """Return the value of any metric; None if there is none."""
        if metric == "loss":
            return self.loss
        if metric == "score":
            return self.score
        return self.metrics[metric]


@dataclass
class RecordResult:
    """The results on one record.

    Attributes:
        record: its number in the split, from 1.
        duplicate: `exact` if a record that tuned the model asks the same question word for word,
            `near` if one asks a similar question (`sft.data.neighbours.NEAR`).
        similarity: of the most similar question that tuned the model, if it is near; from 0 to 1.
        base: None if there is no base.
        before: the turns before the instruction, each with `role` and `content`.
    """

    record: int
    duplicate: str | None
    instruction: str
    input: str
    output: str
    category: str | None
    tuned: AnswerResult
    base: AnswerResult | None
    before: list[dict[str, str]] = field(default_factory=list)
    # Evaluations of early versions have no such key.
    similarity: float | None = field(default=None, kw_only=True)

    @property
    def turns_before(self) -> list[tuple[str, str]]:
        """The roles and the texts of the turns before the instruction."""
        return [(turn["role"], turn["content"]) for turn in self.before]

    def of(self, model: str) -> AnswerResult:
        """Return the result of the model `tuned` or `base`, which must be there."""
        found = self.tuned if model == "tuned" else self.base
        assert found is not None
        return found


@dataclass
class ModelSummary:
    """One model, and its means over the records.

    Attributes:
        loss_as_trained: the loss over all tokens that training learns, in nats per token.
        loss: the loss over the expected answers, in nats per token.
        metrics: the mean of each metric of the texts.
        intervals: the 95% interval of each mean; None for fewer than two records.
        not_asked: how many records the model was not asked, by reason.
        never_stopped: how many answers a limit ended.
        loops: the share of answers that repeat themselves (`sft.data.loops`).
        judge: of the judge's scores: mean, median, max, min, interval, and what was scored.
        length: words per answer, and their correlation with the judge's score.
    """

    source: str
    revision: str | None
    sha256: str
    loss_as_trained: float | None
    seconds: float
    loss: float | None
    perplexity: float | None
    metrics: dict[str, float | None]
    intervals: dict[str, tuple[float, float] | None]
    # Evaluations of early versions have no such key.
    not_asked: dict[str, int] = field(default_factory=dict, kw_only=True)
    never_stopped: int
    loops: float | None = field(default=None, kw_only=True)
    tokens_per_answer: float
    judge: dict[str, Any] | None
    length: dict[str, Any]

    def mean(self, metric: str) -> float | None:
        """Return the mean of any metric; None if there is none."""
        if metric == "loss":
            return self.loss
        if metric == "score":
            return self.judge["mean"] if self.judge else None
        return self.metrics[metric]

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Return the 95% interval of a metric's mean; None if there is none."""
        if metric == "score":
            return self.judge["interval"] if self.judge else None
        return self.intervals.get(metric)


@dataclass
class EvaluationSummary:
    """The numbers of an evaluation, and how they were made.

    Attributes:
        judge: which judge it was, how it was asked, and its audit; None without one.
        records: how many there are.
        base: None if there is no base; `no_base` then says why.
        tuned_against_base: the paired difference of each metric.
        duplicates: how many records have a neighbour among those that tuned the model, and the
            means without them (`aggregate.without_duplicates`); None if it is not known.
        worst: for each metric the numbers of the worst records, the worst first.
        training_records: how many of the training records were measured.
        decoding: the settings that made the answers.
        config: the EvaluateConfig as plain values.
    """

    split: str
    judge: dict[str, Any] | None
    records: int
    loss_is: str
    tuned: ModelSummary
    base: ModelSummary | None
    tuned_against_base: dict[str, dict[str, Any]] | None
    exact_match_by_category: dict[str, dict[str, float]] | None
    score_by_category: dict[str, dict[str, float]] | None
    duplicates: dict[str, Any] | None
    worst: dict[str, list[int]]
    no_base: str | None
    noisiest_training_records: list[dict[str, Any]]
    training_records: dict[str, int]
    seconds: float
    template: str
    decoding: dict[str, Any]
    device: str
    precision: str
    data: dict[str, Any]
    versions: dict[str, str]
    config: dict[str, Any]

    @property
    def models(self) -> dict[str, ModelSummary]:
        """The models that there are, by name, the base first."""
        base = {"base": self.base} if self.base else {}
        return base | {"tuned": self.tuned}


def write_results(folder: Path, rows: Iterable[RecordResult], summary: EvaluationSummary) -> None:
    """Write `records.jsonl` and `summary.json`.

    Raises:
        InputError: one of them cannot be written.
    """
    write_json_lines(folder / RECORDS, map(as_json, rows))
    write_json(folder / SUMMARY, as_json(summary))


def read_summary(folder: Path) -> EvaluationSummary:
    """Read the `summary.json` of an evaluation.

    Raises:
        InputError: it cannot be read, or is not the summary of an evaluation.
    """
    path = folder / SUMMARY
    content = read_json(path, "the summary of an evaluation")
    try:
        return parse_summary(content)
    except (ValueError, TypeError) as error:
        raise _not_an_evaluation(path, error) from error


def read_records(folder: Path) -> list[RecordResult]:
    """Read the `records.jsonl` of an evaluation.

    Raises:
        InputError: it cannot be read, or a line is not the result of a record.
    """
    path = folder / RECORDS
    try:
        # Other ends of lines than "\n", such as U+2028, may be part of a text.
        lines = path.read_text(encoding="utf-8").split("\n")
        return [parse_record(json.loads(line)) for line in lines if line]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _not_an_evaluation(path, error) from error


def _not_an_evaluation(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path}: not an evaluation as evaluate.py writes it ({error}); run evaluate.py again"
    )


def as_json(value: Any) -> Any:
    """Return a result as plain values, with each of its `metrics` as a key of its own."""
    if not is_dataclass(value):
        return value
    plain: dict[str, Any] = {}
    for item in fields(value):
        inner = getattr(value, item.name)
        if item.name == "metrics":
            plain |= inner
        else:
            plain[item.name] = as_json(inner)
    return plain


def parse_record(content: Any) -> RecordResult:
    """Build the result of a record from its JSON.

    Raises:
        ValueError: a key is missing.
    """
    return RecordResult(**_values(RecordResult, content, AnswerResult))


def parse_summary(content: Any) -> EvaluationSummary:
    """Build a summary from its JSON.

    Raises:
        ValueError: a key is missing.
    """
    return EvaluationSummary(**_values(EvaluationSummary, content, ModelSummary))


def _values(kind: type[Any], content: Any, of_model: type[Any] | None = None) -> dict[str, Any]:
    """Return the arguments of a dataclass. Unknown keys are ignored.

    Args:
        of_model: the dataclass of its fields `tuned` and `base`.
    """
    if not isinstance(content, dict):
        raise ValueError(f"expected an object, found {content!r:.60}")
    values: dict[str, Any] = {}
    for item in fields(kind):
        if item.name == "metrics":
            # An evaluation of an earlier version may lack a metric.
            values["metrics"] = {name: content.get(name) for name in TEXT_METRICS}
        elif item.name in content:
            values[item.name] = content[item.name]
        elif item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"{item.name}: missing")

    if of_model is not None:
        for name in ("tuned", "base"):
            if values[name] is not None:
                values[name] = of_model(**_values(of_model, values[name]))
    return values
