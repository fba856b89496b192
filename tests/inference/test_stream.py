"""The text of an answer comes whole, and no character too early."""

import pytest

from sft.gpt2.tokenizer import decode
from sft.inference.stream import AnswerStream

# The id of the end token of the tokenizer `letters`; the ids below it are bytes.
END = 256
UNREADABLE = "\N{REPLACEMENT CHARACTER}"


def pieces(answer: AnswerStream, tokens: list[int]) -> list[str]:
    return [answer.add(token) for token in tokens]


def test_a_character_spread_over_tokens_comes_with_its_last_one(letters):
    answer = AnswerStream(letters, 100)
    assert pieces(answer, [*"né".encode(), *"日".encode()]) == ["n", "", "é", "", "", "日"]
    assert answer.finish_reason is None


def test_half_a_character_before_the_end_token_is_shown_as_unreadable(letters):
    answer = AnswerStream(letters, 100)
    assert pieces(answer, [0x61, 0xE6, 0x97, END]) == ["a", "", "", UNREADABLE]
    assert (answer.finish_reason, answer.tokens) == ("stop", 3)


def test_half_a_character_at_the_limit_is_shown_as_unreadable(letters):
    answer = AnswerStream(letters, 2)
    assert pieces(answer, [0x61, 0xE6]) == ["a", UNREADABLE]
    assert (answer.finish_reason, answer.tokens) == ("length", 2)


@pytest.mark.parametrize(
    "text", ["naïve café 日本語 😀".encode(), "a\xff".encode("latin-1"), b"\xe6\x97a\xe6"]
)
def test_the_pieces_together_are_the_decoded_answer(letters, text):
    tokens = [*text]
    answer = AnswerStream(letters, len(tokens))
    assert "".join(pieces(answer, tokens)) == decode(letters, tokens)


def test_an_id_beyond_the_tokenizer_has_no_text(letters):
    assert pieces(AnswerStream(letters, 9), [0x61, 300, 0x62]) == ["a", "", "b"]


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
def test_the_answer_ends_before_the_first_stop_string(letters, stop, expected):
    answer = AnswerStream(letters, 100, stop)
    text = ""
    for token in [*b"hello world", END]:
        text += answer.add(token)
        assert expected.startswith(text)
        if answer.finish_reason:
            break
    assert text == expected
    assert answer.finish_reason == "stop"


def test_the_first_of_two_stop_strings_in_one_piece_ends_the_answer(letters):
    answer = AnswerStream(letters, 100, ["a", UNREADABLE])

    # Only the byte after half a character shows that it is unreadable. So two characters come
    # with the last token.
    assert pieces(answer, [0x62, 0xE6, 0x61]) == ["b", "", ""]
    assert answer.finish_reason == "stop"


def test_text_that_may_become_a_stop_string_is_held_back(letters):
    assert pieces(AnswerStream(letters, 100, ["aab"]), [*b"aaac"]) == ["", "", "a", "aac"]
    assert pieces(AnswerStream(letters, 3, ["aab"]), [*b"caa"]) == ["c", "", "aa"]
