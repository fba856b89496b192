"""An epoch's plan: complete, equal for every division of a step, and a pure function."""

import random
from typing import Any

import numpy as np
import pytest

from sft.data.plan import MicroBatch, Plan

# rows, batch_size, accumulate, world_size
SHAPES = [
    (1, 1, 1, 1),
    (1, 8, 4, 3),
    (7, 2, 1, 1),
    (8, 2, 2, 2),
    (4, 1, 2, 3),
    (935, 8, 1, 1),
    (935, 8, 4, 2),
]
_random = random.Random(0)
SHAPES += [tuple(_random.randint(1, high) for high in (60, 7, 5, 4)) for _ in range(150)]


def ranks(plan: Plan, epoch: int = 0) -> list[list[MicroBatch]]:
    return [plan.micro_batches(epoch, rank) for rank in range(plan.world_size)]


def steps(plan: Plan, epoch: int = 0) -> list[list[MicroBatch]]:
    """The micro-batches of each optimizer step, of all ranks."""
    columns = list(zip(*ranks(plan, epoch), strict=True))
    groups = [
        columns[start : start + plan.accumulate]
        for start in range(0, len(columns), plan.accumulate)
    ]
    return [[micro for column in group for micro in column] for group in groups]


def rows(micros: list[MicroBatch]) -> list[list[int]]:
    return [micro.rows.tolist() for micro in micros]


def test_file_order_written_out() -> None:
    plan = Plan(10, batch_size=2, accumulate=2, world_size=2)
    assert plan.steps == 2
    assert rows(plan.micro_batches(0, 0)) == [[0, 1], [4, 5], [8]]
    assert rows(plan.micro_batches(0, 1)) == [[2, 3], [6, 7], [9]]
    assert [micro.step.tolist() for micro in plan.micro_batches(5, 1)] == [
        [*range(8)],
        [*range(8)],
        [8, 9],
    ]


def test_short_steps_written_out() -> None:
    assert [rows(rank) for rank in ranks(Plan(5, batch_size=2, world_size=3))] == [
        [[0, 1]],
        [[2, 3]],
        [[4]],
    ]
    assert [rows(rank) for rank in ranks(Plan(1, batch_size=4, world_size=2))] == [[[0]], [[]]]
    assert rows(Plan(7, batch_size=4, accumulate=2).micro_batches(0, 0)) == [
        [0, 1, 2, 3],
        [4, 5, 6],
    ]
    assert rows(Plan(9, batch_size=3, accumulate=2).micro_batches(0, 0)) == [
        [0, 1, 2],
        [3, 4, 5],
        [6, 7, 8],
    ]


@pytest.mark.parametrize("shuffle", [False, True])
def test_in_an_epoch_each_record_comes_once(shuffle: bool) -> None:
    for shape in SHAPES:
        plan = Plan(*shape, shuffle=shuffle, seed=1)
        for epoch in (0, 3):
            seen = [
                row for rank in ranks(plan, epoch) for micro in rank for row in micro.rows.tolist()
            ]
            assert sorted(seen) == list(range(plan.rows)), shape


def test_every_rank_has_the_same_number_of_micro_batches() -> None:
    for shape in SHAPES:
        plan = Plan(*shape, shuffle=True)
        counts = [len(rank) for rank in ranks(plan)]
        assert len(set(counts)) == 1, shape
        assert plan.steps == -(-counts[0] // plan.accumulate), shape


def test_a_step_has_the_records_it_says_in_parts_as_equal_as_can_be() -> None:
    for shape in SHAPES:
        plan = Plan(*shape, shuffle=True)
        found = steps(plan)
        assert len(found) == plan.steps
        for number, micros in enumerate(found):
            sizes = [len(micro.rows) for micro in micros]
            assert max(sizes) - min(sizes) <= 1, shape
            assert max(sizes) <= plan.batch_size, shape
            together = sorted(row for micro in micros for row in micro.rows.tolist())
            assert all(sorted(micro.step.tolist()) == together for micro in micros), shape
            full = plan.batch_size * plan.accumulate * plan.world_size
            assert len(together) == (
                full if number < plan.steps - 1 else plan.rows - full * (plan.steps - 1)
            ), shape


def test_a_step_is_the_same_however_it_is_divided() -> None:
    divisions = [
        (12, 1, 1),
        (6, 2, 1),
        (6, 1, 2),
        (4, 3, 1),
        (3, 2, 2),
        (2, 2, 3),
        (1, 12, 1),
        (1, 4, 3),
        (1, 1, 12),
    ]
    for count in (1, 5, 12, 13, 24, 35, 100):
        contents = {
            tuple(
                frozenset(steps[0].step.tolist())
                for steps in steps_of(Plan(count, *division, shuffle=True, seed=9))
            )
            for division in divisions
        }
        assert len(contents) == 1, count
        [order] = contents
        assert sum(map(len, order)) == count


def steps_of(plan: Plan) -> list[list[MicroBatch]]:
    return steps(plan, epoch=2)


def test_the_plan_depends_on_nothing_but_its_arguments() -> None:
    plan = Plan(50, 4, 2, 2, shuffle=True, seed=5)
    first = [rows(rank) for rank in ranks(plan, 1)]
    np.random.seed(0)
    np.random.default_rng().random()
    plan.micro_batches(0, 0)
    assert [rows(rank) for rank in ranks(Plan(50, 4, 2, 2, shuffle=True, seed=5), 1)] == first


def test_epochs_and_seeds_have_their_own_order() -> None:
    orders = {
        tuple(Plan(50, 4, shuffle=True, seed=seed).order(epoch))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16
    assert tuple(range(50)) not in orders


def test_without_shuffling_every_epoch_is_in_file_order() -> None:
    plan = Plan(50, 4, shuffle=False, seed=5)
    for epoch in range(3):
        assert [
            row for micro in plan.micro_batches(epoch, 0) for row in micro.rows.tolist()
        ] == list(range(50))


# Buckets


def bucketed(rows: int, *shape: int, seed: int = 1, shuffle: bool = True) -> Plan:
    lengths = np.random.default_rng(rows).integers(1, 300, rows)
    return Plan(rows, *shape, shuffle=shuffle, seed=seed, lengths=lengths)


def padded(plan: Plan, lengths: np.ndarray) -> int:
    """Tokens of an epoch with their padding."""
    return sum(
        len(m.rows) * max(lengths[m.rows]) for rank in ranks(plan) for m in rank if len(m.rows)
    )


def test_buckets_written_out() -> None:
    lengths = np.array([1, 9, 2, 8, 3, 7, 4, 6, 5])
    plan = Plan(9, 2, shuffle=True, seed=3, lengths=lengths)
    found = [sorted(lengths[micro.rows].tolist()) for micro in plan.micro_batches(0, 0)]
    order = np.random.default_rng((3, 0)).permutation(9)

    # With four full steps, each window holds one step.
    windows = [sorted(lengths[order[start : start + 2]].tolist()) for start in range(0, 8, 2)]
    assert sorted(found[:4]) == sorted(windows)
    assert found[4] == [lengths[order[8]]]
    plan = Plan(9, 2, accumulate=2, shuffle=True, seed=3, lengths=lengths)
    [*_, last] = plan.micro_batches(0, 0)
    assert last.rows.tolist() == [order[8]]
    for first, second in (plan.micro_batches(0, 0)[:2], plan.micro_batches(0, 0)[2:4]):
        assert max(lengths[first.rows]) < min(lengths[second.rows])


def test_buckets_keep_each_record_and_the_size_of_each_step() -> None:
    for shape in SHAPES:
        for epoch in (0, 3):
            found = steps(bucketed(*shape), epoch)
            assert sorted(
                row for micros in found for micro in micros for row in micro.rows.tolist()
            ) == [*range(shape[0])], shape
            plain = steps(Plan(*shape, shuffle=True, seed=1), epoch)
            assert [len(micros) for micros in found] == [len(micros) for micros in plain], shape
            for micros, others in zip(found, plain, strict=True):
                together = sorted(row for micro in micros for row in micro.rows.tolist())
                assert all(sorted(micro.step.tolist()) == together for micro in micros), shape
                assert len(together) == len(others[0].step), shape
                sizes = [len(micro.rows) for micro in micros]
                assert max(sizes) - min(sizes) <= 1, shape


def test_buckets_give_ranks_equal_tokens_up_to_one_row() -> None:
    for shape in SHAPES:
        plan = bucketed(*shape)
        assert plan.lengths is not None
        for micros in steps(plan):
            lengths = plan.lengths[micros[0].step]
            if len(lengths) < plan.rows_per_step:
                continue
            of_ranks = [
                sum(plan.lengths[micro.rows].sum() for micro in micros[rank :: plan.world_size])
                for rank in range(plan.world_size)
            ]
            assert max(of_ranks) - min(of_ranks) <= max(lengths) - min(lengths), shape


@pytest.mark.parametrize("division", [(8, 1, 1), (8, 4, 1), (8, 1, 4), (8, 2, 2)])
def test_buckets_pad_less_than_three_percent(division: tuple[int, int, int]) -> None:
    plan = bucketed(10_000, *division)
    assert plan.lengths is not None
    total = plan.lengths.sum()
    assert padded(plan, plan.lengths) < 1.03 * total
    assert padded(Plan(10_000, *division, shuffle=True), plan.lengths) > 1.7 * total


def test_a_bucketed_step_is_the_same_however_it_is_divided() -> None:
    for count in (5, 12, 100, 500):
        contents = {
            tuple(
                frozenset(micros[0].step.tolist()) for micros in steps(bucketed(count, *division))
            )
            for division in [(12, 1, 1), (6, 2, 1), (6, 1, 2), (2, 2, 3), (1, 1, 12)]
        }
        assert len(contents) == 1, count


def test_buckets_are_shuffled() -> None:
    """Epochs and seeds differ in what is together, and short and long steps alternate."""
    plan = bucketed(2000, 4)
    assert plan.lengths is not None
    steps = {frozenset(m.rows.tolist()) for epoch in range(4) for m in plan.micro_batches(epoch, 0)}
    assert len(steps) > 0.99 * 4 * 500
    orders = {
        tuple(bucketed(50, 4, seed=seed).order(epoch)) for seed in range(4) for epoch in range(4)
    }
    assert len(orders) == 16
    assert rows(bucketed(50, 4).micro_batches(1, 0)) == rows(bucketed(50, 4).micro_batches(1, 0))
    longest = [max(plan.lengths[micro.rows]) for micro in plan.micro_batches(0, 0)]
    assert abs(np.corrcoef(range(500), longest)[0, 1]) < 0.15


def test_buckets_without_shuffling_leave_file_order() -> None:
    for shape in SHAPES[:20]:
        assert [rows(rank) for rank in ranks(bucketed(*shape, shuffle=False))] == [
            rows(rank) for rank in ranks(Plan(*shape))
        ]


# Sources with weights

SOURCES = np.array([0] * 40 + [1] * 20 + [2] * 7)
WEIGHTS = (1.0, 0.3, 2.5)


def weighted(**settings: Any) -> Plan:
    return Plan(67, 4, sources=SOURCES, weights=WEIGHTS, shuffle=True, seed=3, **settings)


def counts_of(order: np.ndarray) -> list[list[int]]:
    """How often each row of each source comes."""
    counts = np.bincount(order, minlength=67)
    return [counts[SOURCES == source].tolist() for source in range(3)]


@pytest.mark.parametrize("bucket", [False, True])
def test_an_epoch_takes_each_source_by_its_weight(bucket: bool) -> None:
    plan = weighted(lengths=np.arange(67) % 9 if bucket else None)
    assert plan.taken == [40, 6, 18]
    assert plan.steps == 16
    for epoch in range(3):
        once, drawn, often = counts_of(plan.order(epoch))
        assert once == [1] * 40
        assert sorted(drawn) == [0] * 14 + [1] * 6
        assert sorted(often) == [2] * 3 + [3] * 4
        taken = [micro.rows.tolist() for micro in plan.micro_batches(epoch, 0)]
        assert [row for rows in taken for row in rows] == plan.order(epoch).tolist()


def test_each_epoch_draws_anew_and_the_same_again() -> None:
    drawn = {tuple(counts_of(weighted().order(epoch))[1]) for epoch in range(6)}
    assert len(drawn) > 3
    assert weighted().order(4).tolist() == weighted().order(4).tolist()
    other = Plan(67, 4, sources=SOURCES, weights=WEIGHTS, shuffle=True, seed=4)
    assert counts_of(other.order(0)) != counts_of(weighted().order(0))


def test_weights_of_one_take_each_row_once() -> None:
    ones = Plan(67, 4, sources=SOURCES, weights=(1.0, 1.0, 1.0), shuffle=True, seed=3)
    assert sorted(ones.order(1).tolist()) == list(range(67))
    assert Plan(67, 4, shuffle=True, seed=3).taken == [67]


def test_weighted_rows_in_file_order() -> None:
    plan = Plan(67, 4, sources=SOURCES, weights=WEIGHTS, seed=3)
    order = plan.order(0).tolist()
    assert order == sorted(order)
    assert len(order) == plan.epoch_rows == 64


def test_the_share_of_few_rows() -> None:
    def taken(rows: int, weight: float) -> list[int]:
        return Plan(rows, 1, sources=np.zeros(rows, dtype=np.int64), weights=(weight,)).taken

    assert taken(5, 0.3) == [2]
    assert taken(10, 0.3) == [3]
    assert taken(2, 0.1) == [1]
