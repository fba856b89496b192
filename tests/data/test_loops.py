import pytest

from sft.data.loops import repeated, repeats_itself


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", False),
        ("The plural of fox is foxes.", False),
        ("It is red. It is blue. It is green.", False),
        ("I like it. I like it.", False),
        ("I like it. And you? I like it! So? i LIKE it.", True),
        ("Ha. Ha. Ha. Ha.", False),
        ("the cat sat on the cat sat on the cat sat on the cat sat on", True),
        ("no no no no no no no", False),
        ("no no no no no no no no", True),
        ("Kino\nThe same line\nx\nThe same line\ny\nThe same line", True),
        ("我喜欢猫我喜欢猫我喜欢猫", True),
    ],
)
def test_a_loop_is_a_sentence_three_times_or_half_of_the_groups(text: str, expected: bool) -> None:
    assert repeats_itself(text) is expected


def test_the_share_of_groups_that_came_before() -> None:
    # abcd bcda cdab dabc abcd: one of five came before.
    assert repeated(list("abcdabcd")) == pytest.approx(0.2)
    assert repeated(list("abc")) == 0
