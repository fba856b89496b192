"""The results of an evaluation, typed, and the files that hold them.

`records.jsonl` has a line for each record, a `RecordResult`. `summary.json` is an
`EvaluationSummary`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sft.atomic import read_json, read_json_lines, write_json, write_json_lines
from sft.dataclass_json import flat, from_json, to_json
from sft.errors import InputError
from sft.metrics import TEXT_METRICS
from sft.scoring.agreement import Agreement
from sft.scoring.labels import Corrected
from sft.scoring.statistics import Interval

RECORDS = "records.jsonl"
SUMMARY = "summary.json"


@dataclass
class AnswerResult:
    """One model's result on one record.

    Attributes:
        text: the answer. If the model was not asked, it is None, and so is everything that measures
            it.
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
    metrics: dict[str, float | None] = field(metadata=flat(TEXT_METRICS))
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
        preferred: the answer that a judge of pairs prefers: tuned, base or tie; None without one.
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
    # Evaluations of early versions have no such keys.
    similarity: float | None = field(default=None, kw_only=True)
    preferred: str | None = field(default=None, kw_only=True)

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
class JudgedScores:
    """The judge's scores of a model's answers. Without any, the numbers are None.

    Attributes:
        interval: the 95% interval of the mean.
        scored: how many answers have a score.
        of: how many the judge was asked about.
        status: how many judgements have each status.
    """

    mean: float | None
    median: float | None
    max: float | None
    min: float | None
    interval: Interval | None
    scored: int
    of: int
    status: dict[str, int]


@dataclass
class AnswerLength:
    """The length of a model's answers in words, and its correlation with the judge's score."""

    mean_words: float | None
    score_correlation: float | None


@dataclass
class AnsweringSpeed:
    """A model's decoding speed, over the answers that were made in this evaluation.

    Attributes:
        steps: of decoding. Each reads the weights once, and gives a token of each answer that is
            being made.
        tokens: what the steps gave, end tokens too.
        seconds: of the steps, without loading the model or measuring its losses.
        tokens_per_sec: of all answers together.
        mbu: the share of the memory's reading rate at which the weights were read.
    """

    steps: int
    tokens: int
    seconds: float
    tokens_per_sec: float
    mbu: float


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
        judge: None without a judge.
        answering: None if all answers were there already, or if several processes made them.
    """

    source: str
    revision: str | None
    sha256: str
    loss_as_trained: float | None
    seconds: float
    loss: float | None
    perplexity: float | None
    metrics: dict[str, float | None] = field(metadata=flat(TEXT_METRICS))
    intervals: dict[str, Interval | None]
    # Evaluations of early versions have no such key.
    not_asked: dict[str, int] = field(default_factory=dict, kw_only=True)
    never_stopped: int
    loops: float | None = field(default=None, kw_only=True)
    tokens_per_answer: float
    judge: JudgedScores | None
    length: AnswerLength
    # Evaluations of early versions have no such key.
    answering: AnsweringSpeed | None = field(default=None, kw_only=True)

    def mean(self, metric: str) -> float | None:
        """Return the mean of any metric; None if there is none."""
        if metric == "loss":
            return self.loss
        if metric == "score":
            return self.judge.mean if self.judge else None
        return self.metrics[metric]

    def interval(self, metric: str) -> Interval | None:
        """Return the 95% interval of a metric's mean; None if there is none."""
        if metric == "score":
            return self.judge.interval if self.judge else None
        return self.intervals.get(metric)


@dataclass(frozen=True)
class MetricDifference:
    """A `statistics.Difference` between two models by one metric.

    Attributes:
        records: how many have the metric for both models.
        verdict: the difference in words.
    """

    records: int
    difference: float
    interval: Interval | None
    p_value: float
    # Evaluations of early versions have no such key.
    visible: float | None = field(default=None, kw_only=True)
    wins: int
    ties: int
    losses: int
    verdict: str


@dataclass
class CategoryMeans:
    """A category's number of records, and the mean of each model by its name."""

    records: int
    means: dict[str, float | None] = field(metadata=flat())


@dataclass
class MeansWithout:
    """The means over some of the records.

    Attributes:
        records: how many they are.
        models: the mean of each metric, by the model's name; None if there are no records.
    """

    records: int
    models: dict[str, dict[str, float | None] | None] = field(metadata=flat())


@dataclass
class Duplicates:
    """The records that have a neighbour among those that tuned the model, counted.

    Attributes:
        exact: a neighbour that asks the same question word for word.
        near: one that asks a similar question.
        close: a word-for-word or an almost equal one.
        without: the means over the records without a neighbour.
        without_close: the means over the records without a close one.
    """

    exact: int
    near: int
    # Evaluations of early versions have neither `close` nor `without_close`.
    close: int | None = field(default=None, kw_only=True)
    without: MeansWithout
    without_close: MeansWithout | None = None


@dataclass
class Audit:
    """The audit of the judge: does it tell expected answers from empty and wrong ones?

    Attributes:
        records: how many expected answers it scored.
        means: the mean score of the `expected`, the `empty` and the `other` answers.
        auc: the chance that an expected answer gets more than another one.
        auc_by_kind: the same against the `other` answers alone, which are wrong, and against the
            `empty` ones.
        verdict: the AUC in words.
        interval: the AUC's; None in summaries of earlier versions.
    """

    records: int
    means: dict[str, float | None]
    auc: float | None
    # Evaluations of early versions have no such key.
    auc_by_kind: dict[str, float | None] = field(default_factory=dict, kw_only=True)
    verdict: str
    interval: Interval | None = None


@dataclass(frozen=True)
class WinRate:
    """The share of pairs that a model wins, ties counting half; no interval for one pair."""

    rate: float
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Pairwise:
    """The answers of both models compared by the judge: a win is 1, a loss -1, a tie 0.

    All but `unjudged` is None if no pair has a winner.

    Attributes:
        unjudged: how many pairs have no winner.
        position_bias: the share of pairs in which the same place won in both orders, so that the
            place decided and not the answer.
        first_preferred: the number of these pairs in which the first place won.
        win_rate: of the tuned model.
        length_controlled: the same if all answers were equally long (`sft.scoring.length`); None
            if that is not known.
        verdict: all of it in words.
    """

    unjudged: int
    difference: float | None = None
    interval: Interval | None = None
    p_value: float | None = None
    visible: float | None = None
    wins: int | None = None
    ties: int | None = None
    losses: int | None = None
    win_rate: WinRate | None = None
    length_controlled: WinRate | None = None
    position_bias: float | None = None
    first_preferred: int | None = None
    second_preferred: int | None = None
    verdict: str | None = None


@dataclass(frozen=True)
class ModelLabels:
    """A person's labels of one model's answers, beside the judge's scores.

    Attributes:
        labels: how many there are.
        missing: how many more the correction needs.
        person: the mean of the labels.
        judge: the judge's mean over all answers.
        agreement: on which of the labelled answers are right (`sft.scoring.labels`).
        correlation: Spearman's, of labels and scores; None if one of the two is always the same.
        corrected: the judge's mean, corrected by the labels; None if labels are missing.
    """

    labels: int
    missing: int
    person: float
    judge: float
    agreement: Agreement | None
    correlation: float | None
    corrected: Corrected | None


@dataclass(frozen=True)
class LabelsSummary:
    """A judge's scores compared with a person's labels.

    Attributes:
        models: by name, the models whose answers are labelled.
        left_out: how many labels are of no answer that the judge scored.
        text: all of it in words, a sentence or two each.
    """

    models: dict[str, ModelLabels]
    left_out: int
    text: list[str]


@dataclass
class JudgeSummary:
    """The judge, its audit, and its coverage of the answers.

    Attributes:
        identity: which judge it was, where, and how it was asked; other keys than these.
        forms: how many replies were asked for in each form.
        audit: None if there was none.
        pairwise: None if answers were scored one by one.
        coverage: the share of judged answers, by the model's name.
        warning: None if the coverage is high enough.
        labels: None if no person's labels were compared with the scores.
    """

    identity: dict[str, Any] = field(metadata=flat())
    # Evaluations of early versions have no such key.
    forms: dict[str, int] = field(default_factory=dict, kw_only=True)
    audit: Audit | None
    pairwise: Pairwise | None
    coverage: dict[str, float]
    warning: str | None
    labels: LabelsSummary | None = None


@dataclass
class NoisyRecord:
    """A training record with a high loss after training.

    Attributes:
        record: its number in the split, from 1.
        loss: in nats per answer token.
        content: the record's own fields, as plain values.
    """

    record: int
    loss: float | None
    content: dict[str, Any] = field(metadata=flat())


@dataclass
class TrainingRecords:
    """The number of training records that were measured, and of all."""

    looked_at: int
    of: int


@dataclass
class DataEvaluated:
    """The data file, and the number of records in each split."""

    path: str
    sha256: str
    splits: dict[str, dict[str, int]]


@dataclass
class EvaluationSummary:
    """The numbers of an evaluation, and how they were made.

    Attributes:
        judge: None without one.
        records: how many there are.
        base: None if there is no base; `no_base` then says why.
        tuned_against_base: the paired difference of each metric.
        duplicates: None if it is not known which records tuned the model.
        worst: for each metric the numbers of the worst records, the worst first.
        decoding: the settings that made the answers.
        config: the EvaluateConfig as plain values.
    """

    split: str
    judge: JudgeSummary | None
    records: int
    loss_is: str
    tuned: ModelSummary
    base: ModelSummary | None
    tuned_against_base: dict[str, MetricDifference] | None
    exact_match_by_category: dict[str, CategoryMeans] | None
    score_by_category: dict[str, CategoryMeans] | None
    exact_match_by_turns: dict[str, CategoryMeans] | None = field(default=None, kw_only=True)
    duplicates: Duplicates | None
    worst: dict[str, list[int]]
    no_base: str | None
    noisiest_training_records: list[NoisyRecord]
    training_records: TrainingRecords
    seconds: float
    template: str
    decoding: dict[str, Any]
    device: str
    precision: str
    data: DataEvaluated
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
    write_json_lines(folder / RECORDS, map(to_json, rows))
    write_json(folder / SUMMARY, to_json(summary))


def read_summary(folder: Path) -> EvaluationSummary:
    """Read the `summary.json` of an evaluation.

    Raises:
        InputError: it cannot be read, or is not the summary of an evaluation.
    """
    path = folder / SUMMARY
    content = read_json(path, "the summary of an evaluation")
    try:
        return from_json(EvaluationSummary, content)
    except (ValueError, TypeError) as error:
        raise _not_an_evaluation(path, error) from error


def read_records(folder: Path) -> list[RecordResult]:
    """Read the `records.jsonl` of an evaluation.

    Raises:
        InputError: it cannot be read, or a line is not the result of a record.
    """
    path = folder / RECORDS
    try:
        return [from_json(RecordResult, row) for row in read_json_lines(path)]
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise _not_an_evaluation(path, error) from error


def _not_an_evaluation(path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path}: not an evaluation as evaluate.py writes it ({error}); run evaluate.py again"
    )
