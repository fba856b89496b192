"""Several runs, compared in groups: the runs of a group differ in their seed alone.

`compare_groups` gives each group's mean over seeds and records, and says which groups differ. The
table of a sweep and `evaluate.py compare=[...]` show it. Read `sft/scoring/seeds.py` for the
statistics.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from sft.atomic import read_numbers, write_json
from sft.config.loading import flat
from sft.data import neighbours
from sft.dataclass_json import to_json
from sft.errors import InputError
from sft.evaluation.compare import Evaluation, check_same_records, identity, read_evaluation
from sft.metrics import BY_NAME, METRICS, same_text
from sft.report.groups import write_groups_page
from sft.scoring.groups import (
    AnswerCount,
    DisputedRecord,
    GroupResult,
    GroupsSummary,
    MetricMean,
    PairResult,
)
from sft.scoring.results import AnswerResult, RecordResult
from sft.scoring.seeds import FEWEST, Clusters, group_difference, group_mean, holm
from sft.scoring.statistics import LEVEL, Numbers
from sft.summaries import RUN_SUMMARY, RunSummary, read_run_summary

Json = dict[str, Any]

# Settings that do not change the weights of a run, by name or by group.
WITHOUT_A_PART = (
    "seed",
    "resume",
    "logger",
    "evaluate",
    "eval.every",
    "eval.batches",
    "eval.sample",
    "eval.split",
    "eval.rank",
    "judge.",
    "checkpoint.",
)

# The number of records that are kept of those on which seeds disagree.
DISPUTED = 50


@dataclass(frozen=True)
class Member:
    """A run, or the evaluation of a checkpoint.

    Attributes:
        name: the folder, as it was given.
        run: the summary of the run; None for a checkpoint.
        evaluation: None if the run has not been evaluated.
    """

    name: str
    run: RunSummary | None
    evaluation: Evaluation | None

    @property
    def seed(self) -> int | None:
        """The seed of the run; None for a checkpoint."""
        return self.run.seed if self.run else None

    def settings(self) -> Json:
        """Return what decides the weights, but for the seed."""
        if self.run is None:
            return {"checkpoint": self.name}
        found = {}
        for key, value in flat(self.run.config).items():
            if not any(key == name or key.startswith(name) for name in WITHOUT_A_PART):
                found[key] = value
        return found | {"weights before": self.run.checkpoint.sha256}


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone, by seed.

    Attributes:
        label: the settings in which this group differs from the others.
    """

    label: str
    members: list[Member]

    @property
    def seeds(self) -> list[int | None]:
        return [member.seed for member in self.members]


@dataclass(frozen=True)
class Table:
    """The values of one metric.

    Attributes:
        values: of each group, (seeds, records).
        weights: of the records, (records,); None: all weigh the same.
        clusters: the number of each record's cluster, (records,).
    """

    values: list[Numbers]
    weights: Numbers | None = None
    clusters: Clusters | None = None
    lower_is_better: bool = field(default=False, kw_only=True)


def read_member(folder: Path, evaluated: bool) -> Member:
    """Read a run and, if `evaluated`, its evaluation.

    Raises:
        InputError: a file is missing or cannot be read.
    """
    run = None
    if (folder / RUN_SUMMARY).is_file() and (folder / "model").is_dir():
        run = read_run_summary(folder)
    return Member(str(folder), run, read_evaluation(str(folder)) if evaluated else None)


def grouped(members: Sequence[Member]) -> list[Group]:
    """Return the groups, in the order of their first runs.

    Raises:
        InputError: two runs have the same settings and the same seed.
    """
    settings: list[Json] = []
    found: list[list[Member]] = []
    for member in members:
        own = member.settings()
        if own not in settings:
            settings.append(own)
            found.append([])
        group = found[settings.index(own)]
        for other in group:
            if other.seed == member.seed:
                raise InputError(
                    f"compare: {other.name} and {member.name} have the same settings and the same "
                    f"seed {member.seed}, so they are one run made twice; leave one out"
                )
        group.append(member)

    groups = []
    for own, group in zip(settings, found, strict=True):
        group.sort(key=lambda member: member.seed or 0)
        groups.append(Group(_label(own, settings) or _only_label(group[0]), group))
    return groups


def _label(own: Json, all_settings: Sequence[Json]) -> str:
    """Return the settings in which a group of runs differs from another one, as in a command.

    A checkpoint has none of them, and its label is empty.
    """
    if "checkpoint" in own:
        return ""
    runs = [settings for settings in all_settings if "checkpoint" not in settings]
    parts = []
    for key in own:
        apart = any(settings.get(key) != own[key] for settings in runs)
        if apart and key != "weights before":
            parts.append(f"{key}={_shown(own[key])}")
    return " ".join(parts)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _only_label(member: Member) -> str:
    if member.run is None:
        return member.name
    return Path(member.run.checkpoint.source).name


def clusters_of(rows: Sequence[RecordResult]) -> Clusters:
    """Return the number of each record's cluster, (records,).

    Records of one category form a cluster, and so do records whose questions are nearly equal. With
    fewer than six categories, categories do not count: that would leave too little to draw from.
    """
    texts = [f"{row.instruction}\n{row.input}" for row in rows]
    labels: list[list[Any]] = [neighbours.groups(texts).tolist()]
    categories = {row.category for row in rows if row.category is not None}
    if len(categories) >= FEWEST:
        labels.append([row.category or f"record {row.record}" for row in rows])

    # Records are joined to their labels, and labels join the records.
    ends: list[tuple[int, int]] = []
    nodes = len(rows)
    for kind in labels:
        number = {label: nodes + place for place, label in enumerate(dict.fromkeys(kind))}
        ends += [(place, number[label]) for place, label in enumerate(kind)]
        nodes += len(number)
    first, second = zip(*ends, strict=True)
    graph = coo_matrix((np.ones(len(ends)), (first, second)), shape=(nodes, nodes))
    found: Clusters = connected_components(graph, directed=False)[1][: len(rows)]
    return found


def compare_groups(groups: Sequence[Group], rank: str) -> GroupsSummary:
    """Return the groups' means, their differences, and the records on which seeds disagree.

    Args:
        rank: the metric by which they are ranked: `validation_loss` or one of `METRICS`.

    Raises:
        InputError: the records are not the same, or nothing has been measured.
    """
    members = [member for group in groups for member in group.members]
    evaluations = [member.evaluation for member in members if member.evaluation]
    for other in evaluations[1:]:
        check_same_records(evaluations[0], other)
    tables = dict(_tables(groups))
    if not tables:
        raise InputError("compare: there is no number that all runs have; evaluate them first")
    if rank not in tables or (rank == "validation_loss" and "loss" in tables):
        rank = "loss" if "loss" in tables else next(iter(tables))

    seeds = [group.seeds for group in groups]
    differences = {name: _differences(table, seeds) for name, table in tables.items()}
    ranks = _ranks(differences[rank], len(groups), tables[rank].lower_is_better)
    found = []
    for place, group in enumerate(groups):
        found.append(
            GroupResult(
                label=group.label,
                runs=[member.name for member in group.members],
                seeds=group.seeds,
                rank=ranks[place],
                means={name: _group_mean(table, place) for name, table in tables.items()},
                alike=_alike(group),
            )
        )

    rows = evaluations[0].rows if evaluations else []
    return GroupsSummary(
        ranked_by=rank,
        split=evaluations[0].summary.split if evaluations else None,
        records=len(rows),
        clusters=len(np.unique(clusters_of(rows))) if rows else 0,
        order=sorted(range(len(groups)), key=lambda place: _sort_key(found[place], rank, tables)),
        groups=found,
        differences=differences,
        disputed=_disputed(groups, rank) if rows else [],
        notes=_notes(evaluations),
        verdicts={name: _verdict(found, differences[name], name) for name in tables},
    )


def _group_mean(table: Table, place: int) -> MetricMean:
    """Return the mean of the group at this place in a table, with its interval and each seed's."""
    mean = group_mean(table.values[place], table.weights, table.clusters)
    by_seed = np.average(table.values[place], axis=1, weights=table.weights)
    return MetricMean(**vars(mean), by_seed=by_seed.tolist())


def _sort_key(group: GroupResult, rank: str, tables: dict[str, Table]) -> tuple[int, float]:
    mean = group.means[rank].mean
    return group.rank, mean if tables[rank].lower_is_better else -mean


# Tables of values


def _tables(groups: Sequence[Group]) -> Iterator[tuple[str, Table]]:
    """Yield the table of each metric that all runs have, by name."""
    members = [member for group in groups for member in group.members]
    if all(member.evaluation for member in members):
        judges = [identity(member.evaluation.summary.judge) for member in members]  # type: ignore[union-attr]
        for metric in METRICS:
            one_judge = all(judge == judges[0] for judge in judges)
            if metric.name != "score" or one_judge:
                table = _table(groups, metric.name)
                if table is not None:
                    yield metric.name, table

    losses = [[_validation_loss(member) for member in group.members] for group in groups]
    if not any(loss is None for group in losses for loss in group):
        values = [np.array(group, dtype=np.float64)[:, None] for group in losses]
        yield "validation_loss", Table(values, lower_is_better=True)


def _validation_loss(member: Member) -> float | None:
    return member.run.best_validation_loss if member.run else None


def _table(groups: Sequence[Group], metric: str) -> Table | None:
    """Return a metric's table over the records for which all runs have it; None if none has."""
    answers = [[_answers(member) for member in group.members] for group in groups]
    every = [own for group in answers for own in group]
    kept = [
        place
        for place in range(len(every[0]))
        if all(own[place].value(metric) is not None for own in every)
    ]
    if not kept:
        return None

    # Losses per token can be compared only if the tokenizer is the same.
    weights = None
    if metric == "loss":
        tokens = [[own[place].loss_tokens for place in kept] for own in every]
        if any(own != tokens[0] for own in tokens):
            return None
        weights = np.array(tokens[0], dtype=np.float64)

    values = []
    for group in answers:
        table = [[own[place].value(metric) for place in kept] for own in group]
        values.append(np.array(table, dtype=np.float64))
    first = groups[0].members[0].evaluation
    assert first is not None
    clusters = clusters_of([first.rows[place] for place in kept])
    return Table(values, weights, clusters, lower_is_better=BY_NAME[metric].lower_is_better)


def _answers(member: Member) -> list[AnswerResult]:
    return member.evaluation.tuned() if member.evaluation else []


# Differences and ranks


def _differences(table: Table, seeds: Sequence[list[int | None]]) -> list[PairResult]:
    """Compare each group with each later one, with p-values corrected for their number.

    Args:
        seeds: of each group, sorted. Groups with the same seeds are paired by seed.
    """
    pairs = list(combinations(range(len(table.values)), 2))
    found = []
    for first, second in pairs:
        found.append(
            group_difference(
                table.values[first],
                table.values[second],
                table.weights,
                table.clusters,
                same_seeds=seeds[first] == seeds[second],
                comparisons=len(pairs),
            )
        )
    corrected = holm([one.p_value for one in found])
    return [
        PairResult(*pair, **vars(one), p_corrected=p_value, differ=p_value < 1 - LEVEL)
        for pair, one, p_value in zip(pairs, found, corrected, strict=True)
    ]


def _ranks(differences: Sequence[PairResult], groups: int, lower_is_better: bool) -> list[int]:
    """Return each group's rank: 1, plus the number of groups that are better beyond noise."""
    ranks = [1] * groups
    for one in differences:
        if one.differ:
            first_is_better = (one.difference < 0) == lower_is_better
            ranks[one.second if first_is_better else one.first] += 1
    return ranks


# Agreement of the seeds


def _alike(group: Group) -> float | None:
    """Return the share of records that all seeds answer alike; None for one seed."""
    texts = [[answer.text for answer in _answers(member)] for member in group.members]
    if len(texts) < 2 or not texts[0]:
        return None
    same = []
    for own in zip(*texts, strict=True):
        same.append(all(same_text(own[0] or "", text or "") for text in own))
    return sum(same) / len(same)


def _disputed(groups: Sequence[Group], metric: str) -> list[DisputedRecord]:
    """Return the records on which the seeds of a group differ most, the worst first."""
    if metric == "validation_loss" or BY_NAME[metric].compare is None:
        metric = "exact_match"
    first = groups[0].members[0].evaluation
    assert first is not None
    found: list[DisputedRecord] = []
    for place, row in enumerate(first.rows):
        spreads = []
        answers = []
        for group in groups:
            own = [_answers(member)[place] for member in group.members]
            values = [answer.value(metric) or 0.0 for answer in own]
            spreads.append(float(np.std(values)))
            texts = Counter((answer.text or "").strip() for answer in own)
            answers.append([AnswerCount(text, count) for text, count in texts.most_common()])
        if max(spreads) > 0:
            task = (row.record, row.instruction, row.input, row.output)
            found.append(DisputedRecord(*task, spread=max(spreads), answers=answers))
    found.sort(key=lambda one: -one.spread)
    return found[:DISPUTED]


# In words


def metric_label(name: str) -> str:
    """Return a metric's name for people."""
    return "validation loss" if name == "validation_loss" else BY_NAME[name].label


def _notes(evaluations: Sequence[Evaluation]) -> list[str]:
    """Return what else differs between the evaluations."""
    notes = []
    for name in ("decoding", "template"):
        # The seed of decoding is the run's own, and counts only at a temperature above 0.
        kinds = []
        for one in evaluations:
            value = getattr(one.summary, name)
            if isinstance(value, dict):
                value = {key: inner for key, inner in value.items() if key != "seed"}
            kinds.append(value)
        if any(kind != kinds[0] for kind in kinds):
            notes.append(f"the runs differ in {name}")
    judges = [identity(one.summary.judge) for one in evaluations]
    if any(judge != judges[0] for judge in judges):
        notes.append("not the same judge, so scores are not compared")
    return notes


def _verdict(groups: Sequence[GroupResult], pairs: Sequence[PairResult], name: str) -> str:
    """Say in one sentence which groups differ in a metric, with the numbers that show it."""
    if not pairs:
        return f"{groups[0].label}: {_mean_text(groups[0].means[name])}"

    lower = name == "validation_loss" or BY_NAME[name].lower_is_better
    claims = []
    for one in pairs:
        if one.differ and one.interval:
            better = groups[one.first].label
            worse = groups[one.second].label
            if (one.difference > 0) == lower:
                better, worse = worse, better
            low, high = one.interval
            claims.append(
                f"{better} is better than {worse} by {abs(one.difference):.3g} "
                f"(95% interval {_span(low, high, one.difference < 0)}, "
                f"p {_p_text(one.p_corrected)})"
            )
    if claims:
        return "; ".join(claims)
    largest = max(abs(one.difference) for one in pairs)
    visible = [one.visible for one in pairs if one.visible]
    text = f"no difference beyond noise; the largest is {largest:.3g}"
    if visible:
        text += f", and one of {max(visible):.3g} would be found four times in five"
    return text


def _span(low: float, high: float, swapped: bool) -> str:
    if swapped:
        low, high = -high, -low
    return f"{low:.3g} to {high:.3g}"


def _mean_text(mean: MetricMean) -> str:
    if mean.interval is None:
        return f"{mean.mean:.3f}"
    low, high = mean.interval
    return f"{mean.mean:.3f} (95% interval {low:.3f} to {high:.3f})"


def _p_text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.3f}"


def basis_text(found: GroupsSummary) -> str:
    """Return what was drawn: seeds, records and clusters."""
    counts = sorted({len(group.seeds) for group in found.groups})
    seeds = " to ".join(str(count) for count in sorted({counts[0], counts[-1]}))
    parts = [f"{seeds} seed{'s' if counts[-1] > 1 else ''}"]
    if found.records:
        parts.append(f"{found.records} records of the {found.split} split")
    text = " and ".join(parts)
    if 0 < found.clusters < found.records:
        text += f" in {found.clusters} clusters (a category, or nearly equal questions)"
    return text


def groups_text(found: GroupsSummary) -> str:
    """Return the groups as a table, the best first, and which of them differ."""
    rank = found.ranked_by
    label = metric_label(rank)
    header = f"{'rank':>4}{'runs':>6}{label:>17}{'95% interval':>20}{'spread':>9}{'alike':>8}"
    lines = [f"groups of runs that differ in the seed alone: {basis_text(found)}", ""]
    lines.append(f"{header}  group")
    for place in found.order:
        group = found.groups[place]
        mean = group.means[rank]
        interval = "{:.4g} to {:.4g}".format(*mean.interval) if mean.interval else "-"
        spread = "-" if mean.spread is None else f"{mean.spread:.3g}"
        alike = "-" if group.alike is None else f"{group.alike:.0%}"
        cells = f"{group.rank:>4}{len(group.runs):>6}{mean.mean:>17.4g}{interval:>20}"
        lines.append(f"{cells}{spread:>9}{alike:>8}  {group.label}")

    lines.append("")
    lines += [f"{metric_label(name)}: {text}" for name, text in found.verdicts.items()]
    lines += ["", *remarks(found)]
    return "\n".join(lines)


def remarks(found: GroupsSummary) -> list[str]:
    """Return remarks on the meaning of the intervals, and on the runs."""
    alone = min(len(group.seeds) for group in found.groups) == 1
    over = "seeds and records" if found.records else "seeds alone"
    if alone:
        over = "the records alone, as there is one seed; seed=1,2,3,4,5 shows the effect of seeds"
    rank = found.ranked_by
    visible = [one.visible for one in found.differences[rank] if one.visible]
    lines = [f"intervals are over {over}; p-values are corrected for the number of pairs (Holm)"]
    if visible:
        lines.append(
            f"smallest difference in {metric_label(rank)} that these records and seeds show four "
            f"times in five: {max(visible):.3g}"
        )
    lines += [f"note: {note}" for note in found.notes]
    return lines


def keep(folder: Path, groups: Sequence[Group], found: GroupsSummary) -> Path:
    """Write `groups.json` and the page `report.html` into the folder, and return the page's path.

    Raises:
        InputError: a file cannot be written.
    """
    curves: list[tuple[str, list[list[Any]]]] = []
    for place in found.order:
        runs: list[list[Any]] = []
        for member in groups[place].members:
            path = Path(member.name) / "metrics.csv"
            runs.append(read_numbers(path) if path.exists() else [])
        curves.append((groups[place].label, runs))
    write_json(folder / "groups.json", to_json(found))
    labels = {name: metric_label(name) for name in found.verdicts}
    return write_groups_page(folder, found, curves, labels, basis_text(found), remarks(found))
