"""What is said of a judge by its scores of answers whose worth is known."""

import pytest

from sft.judge.score import audit_of


def test_a_judge_that_only_notices_empty_answers_is_not_trusted_with_wrong_ones() -> None:
    found = audit_of({"expected": [90.0] * 20, "other": [90.0] * 20, "empty": [0.0] * 20})
    assert found.auc == pytest.approx(0.75)
    assert found.auc_by_kind == {"other": 0.5, "empty": 1.0}
    assert "Do not rely on this judge" in found.verdict
    assert "50% against wrong answers, 100% against empty answers" in found.verdict


def test_a_kind_without_scores_is_left_out_of_the_words() -> None:
    found = audit_of({"expected": [90.0] * 20, "other": [], "empty": [0.0] * 20})
    assert found.auc_by_kind == {"other": None, "empty": 1.0}
    assert found.means["other"] is None
    assert "wrong ones" not in found.verdict
