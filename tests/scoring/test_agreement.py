import pytest

from sft.scoring.agreement import Item, cohen, fleiss

# Fleiss (1971) counts a table; this one is small enough to count by hand.
THREE = [Item(1, ("a", "a", "a")), Item(2, ("a", "a", "b")), Item(3, ("b", "b", "b"))]


def items(*pairs: str) -> list[Item]:
    return [Item(number, tuple(pair)) for number, pair in enumerate(pairs)]


def test_cohens_kappa_by_hand() -> None:
    """20 yes-yes, 5 yes-no, 10 no-yes, 15 no-no: agreement 0.7, by chance 0.5, so 0.4."""
    found = cohen(items(*["yy"[:2]] * 20, *["yn"] * 5, *["ny"] * 10, *["nn"] * 15))
    assert found
    assert found.share == pytest.approx(0.7)
    assert found.kappa == pytest.approx(0.4)
    assert found.interval
    assert found.interval[0] < 0.4 < found.interval[1]


def test_fleiss_kappa_by_hand() -> None:
    """Agreement (1 + 1/3 + 1) / 3 = 7/9; 5 of 9 are a, so by chance (25 + 16) / 81."""
    found = fleiss(THREE)
    assert found
    assert found.share == pytest.approx(7 / 9)
    assert found.kappa == pytest.approx((7 / 9 - 41 / 81) / (1 - 41 / 81))
    assert found.interval is None


def test_items_with_one_judgement_say_nothing() -> None:
    assert fleiss([Item(1, ("a",))]) is None
    with_one = fleiss([*THREE, Item(4, ("c",))])
    assert with_one == fleiss(THREE)


def test_those_who_only_know_one_answer_have_no_kappa() -> None:
    found = cohen(items(*["aa"] * 10))
    assert found
    assert (found.share, found.kappa, found.interval) == (1.0, None, None)


def test_items_of_one_record_are_drawn_together() -> None:
    apart = [Item(number, tuple(pair)) for number, pair in enumerate(["aa", "bb", "ab", "ba"] * 6)]
    together = [Item(item.record // 4, item.judgements) for item in apart]
    one, other = cohen(apart), cohen(together)
    assert one
    assert other
    assert one.kappa == other.kappa == pytest.approx(0)
    assert one.interval != other.interval
