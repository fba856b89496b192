"""The text of an answer comes whole, and no character too early."""

import pytest

from sft.gpt2.tokenizer import decode
from sft.inference.stream import Answer


def pieces(answer: Answer, tokens: list[int]) -> list[str]:
    return [answer.add(token) for token in tokens]


def test_characters_that_are_spread_over_tokens(letters):
    answer = Answer(letters, 100)
    assert pieces(answer, [*"né".encode(), *"日".encode()]) == ["n", "", "é", "", "", "日"]
    assert answer.finish_reason is None


def test_half_a_character_at_the_end(letters):
    answer = Answer(letters, 100)
    assert pieces(answer, [0x61, 0xE6, 0x97, 256]) == ["a", "", "", "\N{REPLACEMENT CHARACTER}"]
    assert (answer.finish_reason, answer.tokens) == ("stop", 3)
    cut = Answer(letters, 2)
    assert pieces(cut, [0x61, 0xE6]) == ["a", "\N{REPLACEMENT CHARACTER}"]
    assert (cut.finish_reason, cut.tokens) == ("length", 2)


@pytest.mark.parametrize(
    "text", ["naïve café 日本語 😀", "a\xff".encode("latin-1"), b"\xe6\x97a\xe6"]
)
def test_the_pieces_are_the_text(letters, text):
    tokens = [*(text.encode() if isinstance(text, str) else text)]
    answer = Answer(letters, len(tokens))
    assert "".join(pieces(answer, tokens)) == decode(letters, tokens)


def test_ids_beyond_the_tokenizer_have_no_text(letters):
    assert pieces(Answer(letters, 9), [0x61, 300, 0x62]) == ["a", "", "b"]


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (["lo w"], "hel"),
        (["world", "lo"], "hel"),
        (["o", "wo"], "hell"),
        (["h"], ""),
        (["worlds"], "hello world"),
        (["dx", "ld!"], "hello world"),
        ([], "hello world"),
    ],
)
def test_stop_strings(letters, stop, expected):
    answer, said = Answer(letters, 100, stop), ""
    for token in [*b"hello world", 256]:
        said += answer.add(token)
        assert expected.startswith(said)
        if answer.finish_reason:
            break
    assert said == expected
    assert answer.finish_reason == "stop"


def test_of_two_stop_strings_in_one_piece_the_first_ends_it(letters):
    answer = Answer(letters, 100, ["a", "\N{REPLACEMENT CHARACTER}"])
    assert pieces(answer, [0x62, 0xE6, 0x61]) == [
        "b",
        "",
        "",
    ]  # half a character is known as such by what follows
    assert answer.finish_reason == "stop"


def test_what_may_become_a_stop_string_is_held_back(letters):
    assert pieces(Answer(letters, 100, ["aab"]), [*b"aaac"]) == ["", "", "a", "aac"]
    assert pieces(Answer(letters, 3, ["aab"]), [*b"caa"]) == ["c", "", "aa"]
