"""Neighbours: the measure by hand, and the search beside one that compares every pair."""

import json
import os
import random
import re
from pathlib import Path

import numpy as np
import pytest

from sft.data import neighbours
from sft.data.neighbours import compared_text, groups, nearest, spare
from sft.data.records import Record, Turn

REAL = Path(os.environ["SFT_DATA_DIR"]) if "SFT_DATA_DIR" in os.environ else None


def similarity(first: str, second: str) -> float:
    """The measure, in plain Python."""
    sets = []
    for text in (first, second):
        plain = " ".join(re.findall(r"[\w']+", text.lower()))
        sets.append({plain[at : at + 3] for at in range(len(plain) - 2)} or {plain} - {""})
    union = sets[0] | sets[1]
    return len(sets[0] & sets[1]) / len(union) if union else 0


def similar_questions(count: int) -> list[str]:
    """Questions of few words, so that many are near each other, and some equal."""
    rng = random.Random(1)
    words = ["name", "the", "plural", "of", "box", "fox", "cat;", "it's", "犬", "über", "a", "I"]
    return [" ".join(rng.choices(words, k=rng.randint(0, 9))) for _ in range(count)]


def test_the_similarity_is_the_share_of_common_trigrams() -> None:
    # abc bcd cde and abc bcd cdx: two of four are common.
    assert nearest(["abcde"], ["zzz", "abcdx"], least=0.5)[0].tolist() == [1]
    assert nearest(["abcde"], ["zzz", "abcdx"], least=0.5)[1].tolist() == [0.5]
    assert nearest(["abcde"], ["zzz", "abcdx"], least=0.51)[0].tolist() == [-1]


def test_case_punctuation_and_spaces_do_not_count_but_apostrophes_do() -> None:
    assert nearest(["What, NOW?\n"], ["what now"])[1].tolist() == [1.0]
    assert nearest(["it's"], ["its"])[0].tolist() == [-1]


def test_a_short_text_is_near_its_equal_alone_and_an_empty_one_near_nothing() -> None:
    assert nearest(["Hi!", "?", "ab"], ["", "?", "hi", "abc"])[0].tolist() == [2, -1, -1]


def test_of_equally_near_ones_the_first_is_taken() -> None:
    assert nearest(["abcd"], ["zz", "abcd", "ABCD"])[0].tolist() == [1]
    assert nearest(["abcdef"], ["abcdefgh", "abcdefxy"])[0].tolist() == [-1]
    assert nearest(["abcdef"], ["abcdefgh", "abcdefxy"], 0.6)[0].tolist() == [0]


def test_a_question_is_instruction_and_input_or_the_text_of_plain_text() -> None:
    assert compared_text(Record("Do.", "This", "Done")) == "Do.\nThis"
    assert compared_text(Record("", "", "Once upon")) == "Once upon"


def test_the_question_of_a_conversation_has_its_earlier_turns() -> None:
    before = (Turn("user", "Plural of box?"), Turn("assistant", "Boxes."))
    record = Record("And of fox?", "", "Foxes.", before=before)
    assert compared_text(record) == "Plural of box?\nBoxes.\nAnd of fox?\n"


def test_a_system_turn_in_all_records_does_not_make_their_questions_neighbours() -> None:
    before = (Turn("system", "You are a helpful assistant who answers in one word. " * 5),)
    records = [Record(text, "", "", before=before) for text in ("Plural of box?", "Name a sea.")]
    assert groups([compared_text(record) for record in records]).tolist() == [0, 1]


@pytest.mark.parametrize("least", [0.3, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("products", [1, 1000, neighbours.PRODUCTS])
def test_the_search_finds_what_comparing_every_pair_finds(
    least: float, products: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neighbours, "PRODUCTS", products)
    monkeypatch.setattr(neighbours, "CHUNK", 7)
    texts = similar_questions(120)
    asked = texts[:40]
    others = texts[40:]

    places, similarities = nearest(asked, others, least)
    for row, text in enumerate(asked):
        found = [similarity(text, other) for other in others]
        best = max(found)
        assert similarities[row] == pytest.approx(best if best >= least else 0), text
        assert places[row] == (found.index(best) if best >= least else -1), text


@pytest.mark.parametrize("least", [0.5, 0.7, 0.9])
def test_groups_hold_neighbours_of_neighbours_and_are_numbered_in_order(least: float) -> None:
    texts = similar_questions(80)
    found = groups(texts, least).tolist()

    label = list(range(len(texts)))
    for one in range(len(texts)):
        for other in range(one):
            equal = re.findall(r"[\w']+", texts[one]) == re.findall(r"[\w']+", texts[other])
            if equal or similarity(texts[one], texts[other]) >= least:
                old = label[one]
                label = [label[other] if each == old else each for each in label]
    numbers = list(dict.fromkeys(label))
    assert found == [numbers.index(each) for each in label]
    assert max(found) < len(texts) - 5


@pytest.mark.parametrize("least", [0.5, 0.9])
def test_what_is_not_spare_has_no_neighbours_and_what_is_has_one(least: float) -> None:
    texts = similar_questions(80)
    found = spare(texts, least)
    kept = [text for text, drop in zip(texts, found, strict=True) if not drop]
    for at, text in enumerate(kept):
        assert all(similarity(text, other) < least for other in kept[:at])
    for at in np.flatnonzero(found):
        assert any(similarity(texts[at], text) >= least for text in kept) or texts[at] in kept
    assert 5 < found.sum() < 75


def test_of_equal_questions_the_first_is_kept() -> None:
    assert spare(["One more", "other", "one MORE!", "other"]).tolist() == [False, False, True, True]


@pytest.mark.parametrize("texts", [[], [""], ["", "?"]])
def test_nothing_to_compare_is_no_error(texts: list[str]) -> None:
    assert nearest(texts, texts)[0].tolist() == [-1] * len(texts)
    assert len(groups(texts)) == len(spare(texts)) == len(texts)


@pytest.mark.skipif(REAL is None, reason="needs the 1,100 instructions in SFT_DATA_DIR")
def test_neighbours_in_the_published_1100() -> None:
    assert REAL
    items = json.loads((REAL / "instruction-data.json").read_text(encoding="utf-8"))
    texts = [compared_text(Record(item["instruction"], item["input"], "")) for item in items]
    train = texts[:935]
    test = texts[935:1045]
    assert sum(text in train for text in test) == 2

    _, similarities = nearest(test, train)
    assert [int((similarities >= least).sum()) for least in (0.7, 0.8, 0.9)] == [34, 10, 3]
