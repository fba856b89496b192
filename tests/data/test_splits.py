"""Which records go to which split: in order, at random, by question or category, own files."""

import hashlib
import json
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from sft.config.schema import DataConfig
from sft.data import sources
from sft.data.sources import load_source
from sft.data.splits import part_rows, split_source, split_text
from sft.errors import InputError

NAMES = ("train", "test", "validation")


def write(path: Path, items: Any) -> str:
    path.write_text(json.dumps(items))
    return str(path)


def word(number: int) -> str:
    """A word that is like no other."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def numbered(numbers: range, **more: Any) -> list[dict[str, Any]]:
    return [{"instruction": word(i), "output": str(i)} | more for i in numbers]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return write(tmp_path / "mine.json", numbered(range(200)))


def rows(path: str | list[str], **settings: Any) -> dict[str, list[int]]:
    """Return the rows of each split. The numbers that the records say are the same."""
    data = DataConfig("file", path, **settings)
    source = load_source(data)
    parts = {name: found.tolist() for name, found in part_rows(source, data).items()}
    assert list(parts) == list(NAMES)
    said = {
        name: [int(record.output) for record in records]
        for name, records in split_source(source, data).items()
    }
    assert said == {
        name: [int(source.records[row].output) for row in found] for name, found in parts.items()
    }
    return said


def test_in_order_written_out(path: str) -> None:
    expected = {
        "train": list(range(170)),
        "test": list(range(170, 190)),
        "validation": list(range(190, 200)),
    }
    assert rows(path) == rows(path, split_by="order", split_seed=5) == expected


@pytest.mark.parametrize("by", ["random", "question", "category"])
def test_a_draw_has_the_sizes_and_every_record_once(tmp_path: Path, by: str) -> None:
    items = [item | {"category": "ab"[i % 2]} for i, item in enumerate(numbered(range(200)))]
    path = write(tmp_path / "mine.json", items)
    found = rows(path, split_by=by)
    assert [len(found[name]) for name in NAMES] == [170, 20, 10]
    assert sorted(chain.from_iterable(found.values())) == list(range(200))
    assert all(part == sorted(part) for part in found.values())
    assert found != rows(path)
    assert found == rows(path, split_by=by)
    assert found != rows(path, split_by=by, split_seed=124)


def test_the_draw_at_random_is_the_same_in_every_version(path: str) -> None:
    expected = [5, 35, 46, 73, 76, 121, 144, 150, 153, 177]
    assert rows(path, split_by="random")["validation"] == expected


def test_nearly_equal_questions_stay_together(tmp_path: Path) -> None:
    forms = ("Say {}, please!", "say {} please", "SAY {} -- NOW PLEASE")
    items = [
        {"instruction": forms[i % 3].format(word(i // 3)), "output": str(i)} for i in range(120)
    ]
    path = write(tmp_path / "mine.json", items)
    found = rows(path, split_by="question")
    groups = {name: {number // 3 for number in part} for name, part in found.items()}
    assert sum(map(len, groups.values())) == 40
    assert [len(found[name]) for name in NAMES] == [102, 12, 6]
    assert any(len({i // 3 for i in part} & groups["train"]) for part in rows(path).values())


def test_one_large_group_goes_to_train(tmp_path: Path) -> None:
    items = numbered(range(40)) + [
        {"instruction": "the same", "output": str(i)} for i in range(40, 100)
    ]
    path = write(tmp_path / "mine.json", items)
    for seed in range(5):
        found = rows(path, split_by="question", split_seed=seed)
        assert set(range(40, 100)) <= set(found["train"])
        assert [len(found[name]) for name in NAMES] == [85, 10, 5]


def test_questions_that_are_all_equal_cannot_be_split(tmp_path: Path) -> None:
    items = [{"instruction": "the same", "output": str(i)} for i in range(40)]
    with pytest.raises(InputError, match=r"^data.split_by: question leaves none of 40 .* test"):
        rows(write(tmp_path / "mine.json", items), split_by="question")


def test_each_category_has_the_same_shares(tmp_path: Path) -> None:
    sizes = {"a": 100, "b": 60, "c": 20, None: 20}
    categories = [category for category, size in sizes.items() for _ in range(size)]
    items = [
        item | {"category": category}
        for item, category in zip(numbered(range(200)), categories, strict=True)
    ]
    path = write(tmp_path / "mine.json", items)
    found = rows(path, split_by="category", split=[0.8, 0.1, 0.1])
    counts = {name: Counter(categories[i] for i in part) for name, part in found.items()}
    for category, size in sizes.items():
        assert counts["train"][category] == pytest.approx(size * 0.8, abs=1)
        assert counts["test"][category] == pytest.approx(size * 0.1, abs=1)
        assert counts["validation"][category] == pytest.approx(size * 0.1, abs=1)


def test_categories_that_are_not_there(path: str) -> None:
    with pytest.raises(InputError, match=r"^data.split_by: no record has a category"):
        rows(path, split_by="category")


@pytest.mark.parametrize("by", ["question", "category"])
def test_a_large_file_is_grouped_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setenv("SFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sources, "SMALL", 0)
    data = DataConfig(
        "file", write(tmp_path / "mine.json", numbered(range(50), category="a")), split_by=by
    )
    first = part_rows(load_source(data), data)
    monkeypatch.setattr(sources, "stream_records", None)
    again = part_rows(load_source(data), data)
    assert all((first[name] == again[name]).all() for name in NAMES)


def test_a_sorted_file_in_order_is_warned_of(tmp_path: Path) -> None:
    def text(categories: str, **settings: Any) -> str:
        items = [
            item | {"category": category}
            for item, category in zip(numbered(range(40)), categories, strict=True)
        ]
        data = DataConfig("file", write(tmp_path / "mine.json", items), **settings)
        return split_text(load_source(data), data)

    assert "sorted by category" in text("a" * 30 + "b" * 10)
    assert "sorted by category" not in text("a" * 30 + "b" * 10, split_by="random")
    assert "sorted by category" not in text("ab" * 20)
    assert "sorted by category" not in text("a" * 40)
    assert "split_seed=7" in text("ab" * 20, split_by="category", split_seed=7)


# Own files


def test_a_split_with_its_own_file_takes_nothing_else(tmp_path: Path, path: str) -> None:
    test = write(tmp_path / "test.json", numbered(range(200, 203)))
    validation = write(tmp_path / "validation.json", numbered(range(203, 205)))

    # 0.85 and 0.05 become 17/18 and 1/18.
    found = rows(path, test=test)
    assert found["test"] == [200, 201, 202]
    assert found["train"] == list(range(188))
    assert found["validation"] == list(range(188, 200))

    # 0.85 and 0.10 become 17/19 and 2/19. What rounding leaves over goes to train.
    found = rows(path, validation=validation)
    assert found["validation"] == [203, 204]
    assert [len(found["train"]), len(found["test"])] == [179, 21]

    found = rows(path, test=test, validation=validation, split_by="random")
    assert found == {"train": list(range(200)), "test": [200, 201, 202], "validation": [203, 204]}


def test_a_sample_is_drawn_from_the_divided_records_alone(tmp_path: Path, path: str) -> None:
    test = write(tmp_path / "test.json", numbered(range(200, 203)))
    found = rows(path, test=test, sample=50)
    assert found["test"] == [200, 201, 202]
    assert len(found["train"]) + len(found["validation"]) == 50
    without = rows(path, sample=50)
    assert found["train"] + found["validation"] == list(chain.from_iterable(without.values()))


def test_lists_in_a_file_are_the_splits(tmp_path: Path) -> None:
    lists = {
        "validation": numbered(range(38, 40)),
        "test": numbered(range(30, 38)),
        "train": numbered(range(30)),
    }
    path = write(tmp_path / "mine.json", lists)
    expected = {
        "train": list(range(30)),
        "test": list(range(30, 38)),
        "validation": [38, 39],
    }
    assert rows(path) == rows(path, split_by="random") == expected
    del lists["validation"]
    found = rows(write(tmp_path / "mine.json", lists))
    assert found["test"] == expected["test"]
    assert sorted(found["train"] + found["validation"]) == list(range(30))


def test_a_split_has_one_place_alone(tmp_path: Path, path: str) -> None:
    lists = write(
        tmp_path / "lists.json", {"train": numbered(range(5)), "test": numbered(range(5))}
    )
    for settings in ({"path": lists, "test": path}, {"path": path, "test": lists}):
        with pytest.raises(InputError, match=r"^data.test: .*lists.json holds "):
            load_source(DataConfig("file", **settings))
    with pytest.raises(InputError, match=r"mine.json is named twice"):
        load_source(DataConfig("file", path, test=path))


def test_own_files_are_part_of_the_datas_hash(tmp_path: Path, path: str) -> None:
    test = write(tmp_path / "test.json", numbered(range(3)))
    hashes = {
        load_source(DataConfig("file", path, **settings)).sha256
        for settings in ({}, {"test": test}, {"validation": test})
    }
    hashes.add(load_source(DataConfig("file", [path, test])).sha256)
    assert len(hashes) == 4
