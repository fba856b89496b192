"""The batches that a trainer gets: complete, countable, the same from wherever it starts."""

from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
import tiktoken
import torch

from sft.data.batches import Batch
from sft.data.datamodule import InstructionData
from sft.data.records import Record
from sft.data.splits import Split, encode_splits

TEMPLATE = "{{ instruction }}:"


@pytest.fixture
def splits(letters: tiktoken.Encoding) -> dict[str, Split]:
    """13 records to train on, of lengths 3 to 11, one of them dropped; 5 to validate."""
    train = [Record("a", "", "x" * (1 + i * i % 9)) for i in range(12)]
    train.insert(4, Record("a" * 20, "", "x"))
    parts = {
        "train": train,
        "test": [],
        "validation": [Record("b", "", "y" * i) for i in range(1, 6)],
    }
    return encode_splits(parts, TEMPLATE, letters, 16, 16, mask_prompt=True)


def trained_by(
    data: InstructionData, rank: int = 0, world_size: int = 1, epoch: int = 0, done: int = 0
) -> Any:
    """The data as a trainer at that place sees it."""
    loop = SimpleNamespace(
        epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=epoch)),
        epoch_loop=SimpleNamespace(
            batch_progress=SimpleNamespace(current=SimpleNamespace(ready=done))
        ),
        restarting=done > 0,
    )
    data.trainer = SimpleNamespace(world_size=world_size, global_rank=rank, fit_loop=loop)  # type: ignore[assignment]
    return data


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        all(torch.equal(a, b) for a, b in zip(x[:4], y[:4], strict=True)) and x[4:] == y[4:]
        for x, y in zip(one, other, strict=True)
    )


def ids(batches: list[Batch]) -> list[list[int]]:
    return [batch.records.tolist() for batch in batches]


def test_batches_in_file_order_written_out(splits: dict[str, Split]) -> None:
    batches = list(
        trained_by(InstructionData(splits, batch_size=5, shuffle=False)).train_dataloader()
    )

    # Record 4 was dropped. The short last batch is kept.
    assert ids(batches) == [[0, 1, 2, 3, 5], [6, 7, 8, 9, 10], [11, 12]]

    # Each prompt has 2 tokens. These answers have 1, 2, 5, 1 and 8.
    assert batches[0].lengths.tolist() == [3, 4, 7, 3, 10]
    tokens = [3 + 4 + 7 + 3 + 10, 10 + 3 + 7 + 4 + 3, 4 + 7]
    assert [batch.step_tokens for batch in batches] == tokens

    # Of the prompt's two tokens, only the last predicts a token of the answer.
    assert [batch.step_targets for batch in batches] == [22, 22, 9]
    assert [batch.input_ids.shape[1] for batch in batches] == [10, 10, 7]


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "world_size"),
    [(1, 1, 1), (5, 1, 1), (2, 3, 1), (2, 1, 3), (2, 2, 2), (4, 1, 5)],
)
def test_steps_add_up_over_ranks_and_micro_batches(
    splits: dict[str, Split], batch_size: int, accumulate: int, world_size: int
) -> None:
    data = InstructionData(splits, batch_size, accumulate, shuffle=True, seed=3)
    loaders = [trained_by(data, rank, world_size).train_dataloader() for rank in range(world_size)]
    of_ranks = [list(loader) for loader in loaders]
    assert len({len(loader) for loader in loaders}) == 1
    assert [len(batches) for batches in of_ranks] == [len(loader) for loader in loaders]
    assert data.plan(world_size).steps == -(-len(loaders[0]) // accumulate)
    for start in range(0, len(loaders[0]), accumulate):
        step = list(
            chain.from_iterable(batches[start : start + accumulate] for batches in of_ranks)
        )
        targets = sum(int((batch.labels != -100).sum()) for batch in step)
        tokens = sum(int(batch.lengths[batch.records >= 0].sum()) for batch in step)
        assert {(batch.step_targets, batch.step_tokens) for batch in step} == {(targets, tokens)}
    seen = [
        record
        for batches in of_ranks
        for batch in batches
        for record in batch.records.tolist()
        if record >= 0
    ]
    assert sorted(seen) == [0, 1, 2, 3, *range(5, 13)]


def test_each_seed_and_epoch_has_its_own_order(splits: dict[str, Split]) -> None:
    def order(seed: int, epoch: int) -> list[Batch]:
        return list(
            trained_by(InstructionData(splits, 5, seed=seed), epoch=epoch).train_dataloader()
        )

    assert same(order(3, 1), order(3, 1))
    assert len({str(ids(order(seed, epoch))) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_epoch_continues_where_it_stopped(splits: dict[str, Split], workers: int) -> None:
    data = InstructionData(splits, 2, seed=3, workers=workers)
    whole = list(trained_by(data, epoch=1).train_dataloader())
    loader = trained_by(data, epoch=1, done=4).train_dataloader()
    assert same(list(loader), whole[4:])

    # Lightning counts the batches from the epoch's beginning.
    assert len(loader) == len(whole) == 6
    assert same(list(trained_by(data, epoch=1, done=6).train_dataloader()), [])


def test_buckets_pad_little_and_can_be_resumed(
    letters: tiktoken.Encoding,
) -> None:
    records = [Record("a", "", "x" * (1 + i % 10)) for i in range(400)]
    splits = encode_splits(
        {"train": records, "test": [], "validation": []}, TEMPLATE, letters, 16, 16, True
    )

    def loader(bucket: bool, done: int = 0, **choices: Any) -> Any:
        data = InstructionData(splits, 2, accumulate=2, seed=3, bucket=bucket, **choices)
        return trained_by(data, epoch=1, done=done).train_dataloader()

    def padding(batches: list[Batch]) -> int:
        return sum(batch.input_ids.numel() - int(batch.lengths.sum()) for batch in batches)

    whole = list(loader(bucket=True))
    assert padding(whole) < padding(list(loader(bucket=False))) / 4
    assert sorted(record for batch in ids(whole) for record in batch) == [*range(400)]
    for done in (1, 2, 7, 199):
        assert same(list(loader(bucket=True, done=done)), whole[done:])
    assert same(list(loader(bucket=True, shuffle=False)), list(loader(bucket=False, shuffle=False)))


def test_a_fresh_epoch_ignores_the_counter_of_the_last(splits: dict[str, Split]) -> None:
    data = trained_by(InstructionData(splits, 2), done=4)
    data.trainer.fit_loop.restarting = False
    assert len(list(data.train_dataloader())) == 6


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_validation_is_in_file_order_and_each_record_comes_once(
    splits: dict[str, Split], world_size: int
) -> None:
    data = InstructionData(splits, 2, accumulate=4, shuffle=True)
    ranks = [
        list(trained_by(data, rank, world_size).val_dataloader()) for rank in range(world_size)
    ]
    expected = {
        1: [[[0, 1], [2, 3], [4]]],
        2: [[[0, 1], [4]], [[2, 3], [-1]]],
        3: [[[0, 1]], [[2, 3]], [[4]]],
    }
    assert [ids(batches) for batches in ranks] == expected[world_size]


def test_an_empty_validation_split_gives_no_batches(
    splits: dict[str, Split], letters: tiktoken.Encoding
) -> None:
    splits = splits | encode_splits({"validation": []}, TEMPLATE, letters, 16, 16, True)
    data = trained_by(InstructionData(splits, 2))
    assert not data.has_validation
    assert data.val_dataloader() == []
    assert data.first_batches("validation", 5) == []


def test_first_batches_are_in_file_order_and_can_override_the_mask(
    splits: dict[str, Split],
) -> None:
    data = InstructionData(splits, 5, accumulate=3, shuffle=True)
    assert ids(data.first_batches("train", 2)) == [[0, 1, 2, 3, 5], [6, 7, 8, 9, 10]]
    assert ids(data.first_batches("train", 9)) == [[0, 1, 2, 3, 5], [6, 7, 8, 9, 10], [11, 12]]
    assert ids(data.first_batches("validation", 1)) == [[0, 1, 2, 3, 4]]
    [unmasked] = data.first_batches("validation", 1, mask_prompt=False)
    [masked] = data.first_batches("validation", 1)
    assert (unmasked.labels != -100).sum() - (masked.labels != -100).sum() == 5


def test_rows_are_padded_to_the_multiple(splits: dict[str, Split]) -> None:
    # The model reads 16 tokens.
    for multiple, width in ((16, 16), (64, 16)):
        data = trained_by(InstructionData(splits, 5, multiple=multiple))
        batches = [
            *data.train_dataloader(),
            *data.val_dataloader(),
            *data.first_batches("train", 2),
        ]
        assert {batch.input_ids.shape[1] for batch in batches} == {width}
        assert {batch.labels.shape[1] for batch in batches} == {width}
