"""Conversations as tokens: ids and labels of each template, written out, and cut everywhere."""

import numpy as np
import pytest
import tiktoken
from transformers import AutoTokenizer

from sft.checkpoint.folder import load_pretrained, save_pretrained
from sft.data import tokens
from sft.data.batches import IGNORE_INDEX, as_examples, encode
from sft.data.prompt import prompt_tokens, usable_template
from sft.data.records import Record, Turn
from sft.data.tokens import tokenise
from sft.prompts import PROMPTS

END = 256

TWO = Record("c", "i", "z", before=(Turn("user", "ab"), Turn("assistant", "xy")))
THREE = Record(
    "e",
    "",
    "w",
    before=(
        Turn("system", "S"),
        Turn("user", "ab"),
        Turn("assistant", "xy"),
        Turn("user", "c"),
        Turn("assistant", ""),
    ),
)

# Each text, with what is learned of the answers alone between ⟦ and ⟧, and E for the end token.
PREAMBLE = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
WRITTEN = {
    "alpaca": (
        PREAMBLE + "\n\n### Instruction:\nab\n\n### Response:\n⟦xyE⟧"
        "\n\n### Instruction:\nc\n\n### Input:\ni\n\n### Response:\n⟦zE⟧",
        "S\n\n### Instruction:\nab\n\n### Response:\n⟦xyE⟧"
        "\n\n### Instruction:\nc\n\n### Response:\n⟦E⟧"
        "\n\n### Instruction:\ne\n\n### Response:\n⟦wE⟧",
    ),
    "alpaca-stanford": (
        PREAMBLE + "\n\n### Instruction:\nab\n\n### Response:⟦xyE⟧"
        "\n\n### Instruction:\nc\n\n### Input:\ni\n\n### Response:⟦zE⟧",
        "S\n\n### Instruction:\nab\n\n### Response:⟦xyE⟧"
        "\n\n### Instruction:\nc\n\n### Response:⟦E⟧"
        "\n\n### Instruction:\ne\n\n### Response:⟦wE⟧",
    ),
    "phi3": (
        "<|user|>\nab\n<|assistant|>\n⟦xyE⟧\n<|user|>\nc\ni\n<|assistant|>\n⟦zE⟧",
        "<|system|>\nS\n<|user|>\nab\n<|assistant|>\n⟦xyE⟧"
        "\n<|user|>\nc\n<|assistant|>\n⟦E⟧\n<|user|>\ne\n<|assistant|>\n⟦wE⟧",
    ),
    "chatml": (
        "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n⟦xyE⟧"
        "\n<|im_start|>user\nc\n\ni<|im_end|>\n<|im_start|>assistant\n⟦zE⟧",
        "<|im_start|>system\nS<|im_end|>\n"
        "<|im_start|>user\nab<|im_end|>\n<|im_start|>assistant\n⟦xyE⟧"
        "\n<|im_start|>user\nc<|im_end|>\n<|im_start|>assistant\n⟦E⟧"
        "\n<|im_start|>user\ne<|im_end|>\n<|im_start|>assistant\n⟦wE⟧",
    ),
}


def written(text: str) -> tuple[list[int], list[bool]]:
    """Return the ids of a text that is written as above, and which of them are learned."""
    ids: list[int] = []
    learned: list[bool] = []
    inside = False
    for letter in text:
        if letter in "⟦⟧":
            inside = letter == "⟦"
            continue
        ids.append(END if letter == "E" else ord(letter))
        learned.append(inside)
    return ids, learned


def test_every_template_of_conversations_is_written_out() -> None:
    assert WRITTEN.keys() == PROMPTS.keys() - {"none"}


def test_two_turns_as_numbers(letters: tiktoken.Encoding) -> None:
    masked = encode([TWO], SHORT, letters, 100, True)
    batch = masked.batch([0])
    no = IGNORE_INDEX
    #                                   a   b   :   x    y    E    c   i   :   z
    assert batch.input_ids.tolist() == [[97, 98, 58, 120, 121, END, 99, 105, 58, 122]]
    assert batch.labels.tolist() == [[no, no, 120, 121, END, no, no, no, 122, END]]
    assert masked.targets().tolist() == [5]
    assert masked.is_answer(0).tolist() == [*[False] * 3, *[True] * 3, *[False] * 3, True, True]
    whole = masked.batch([0], mask_prompt=False).labels.tolist()
    assert whole == [[98, 58, 120, 121, END, 99, 105, 58, 122, END]]


SHORT = (
    "{% for m in messages %}{{ m['content'] }}{% if m['input'] %}{{ m['input'] }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ ':' }}{% else %}{{ '<|endoftext|>' }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("mask", [True, False])
@pytest.mark.parametrize("turns", [0, 1], ids=["two", "three"])
@pytest.mark.parametrize("name", WRITTEN)
def test_ids_and_labels_are_as_written_wherever_the_text_is_cut(
    letters: tiktoken.Encoding, name: str, turns: int, mask: bool
) -> None:
    record = (TWO, THREE)[turns]
    ids, learned = written(WRITTEN[name][turns])
    texts = tokenise([record], PROMPTS[name], letters)
    assert texts.tokens.tolist() == ids
    assert texts.answers.tolist() == learned

    # The last answer begins behind the last prompt.
    assert texts.prompts[0] == len(ids) - 2

    first = learned.index(True)
    for max_length in range(1, len(ids) + 1):
        examples = encode([record], PROMPTS[name], letters, max_length, mask)
        kept = min(max_length + 1, len(ids))
        assert len(examples) == (kept > first)
        if not len(examples):
            assert examples.dropped == 1
            continue
        batch = examples.batch([0])
        expected = [
            ids[place] if learned[place] or not mask else IGNORE_INDEX for place in range(1, kept)
        ]
        assert batch.input_ids.tolist() == [ids[: kept - 1]]
        assert batch.labels.tolist() == [expected]
        assert examples.targets().tolist() == [sum(label != IGNORE_INDEX for label in expected)]
        assert examples.cut == (kept < len(ids))


def test_a_text_that_spells_the_end_token_stays_text(letters: tiktoken.Encoding) -> None:
    spelt = "<|endoftext|>"
    record = Record("q", "", "r", before=(Turn("user", spelt), Turn("assistant", spelt)))
    texts = tokenise([record, TWO], PROMPTS["phi3"], letters)
    expected = [
        *f"<|user|>\n{spelt}\n<|assistant|>\n{spelt}".encode(),
        END,
        *b"\n<|user|>\nq\n<|assistant|>\nr",
        END,
    ]
    assert texts.tokens[: texts.starts[1]].tolist() == expected
    learned = [*[False] * 37, *[True] * 14, *[False] * 26, True, True]
    assert texts.answers[: texts.starts[1]].tolist() == learned
    assert texts.tokens[texts.starts[1] :].tolist() == written(WRITTEN["phi3"][0])[0]


def test_what_another_program_writes_after_an_answer_is_not_learned(
    letters: tiktoken.Encoding,
) -> None:
    template = usable_template("x", None, SHORT.replace("<|endoftext|>", "#"))
    assert template
    texts = tokenise([TWO], template, letters)
    assert bytes(texts.tokens[:-1].tolist()).decode() == "ab:xy#c\n\ni:z"
    assert np.flatnonzero(texts.answers).tolist() == [3, 4, 11, 12]


@pytest.mark.parametrize("name", WRITTEN)
def test_transformers_gives_the_ids_of_prompt_and_training(checkpoint, tmp_path, name: str) -> None:
    tiny = load_pretrained(checkpoint)
    template = PROMPTS[name]
    save_pretrained(
        tiny.model, tmp_path / "m", tiny.tokenizer, template, "b", chat_template=template
    )
    theirs = AutoTokenizer.from_pretrained(tmp_path / "m")
    before = (
        Turn("system", "Be short."),
        Turn("user", "What is the plural of box?"),
        Turn("assistant", "boxes"),
        Turn("user", "Write two lines."),
        Turn("assistant", "one\n\n two \n"),
    )
    for record in (
        Record("And of fox?", "", "foxes", before=before[1:3]),
        Record("  {{ x }}\n", "", "é😀", before=before),
        Record("Name a bird.", "", "a crow"),
    ):
        messages = [{"role": turn.role, "content": turn.content} for turn in record.turns[:-1]]
        found = theirs.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)
        prompt = prompt_tokens(template, record, tiny.tokenizer)
        assert found["input_ids"] == prompt
        assert prompt.count(tiny.tokenizer.eot_token) == sum(
            turn.role == "assistant" for turn in record.before
        )

        # Training learns exactly this prompt and the answer behind it.
        texts = tokenise([record], template, tiny.tokenizer)
        answer = tiny.tokenizer.encode_ordinary(record.output)
        assert texts.tokens.tolist() == [*prompt, *answer, tiny.tokenizer.eot_token]


# Too long

LONG = Record(
    "3",
    "i",
    "c",
    "kind",
    before=(
        Turn("system", "S"),
        Turn("user", "1"),
        Turn("assistant", "a"),
        Turn("user", "2"),
        Turn("assistant", "bb"),
    ),
)
ONE = Record("q", "", "r")

# One letter a turn, and a colon behind a question.
COLON = (
    "{% for m in messages %}{{ m['content'] }}{% if m['input'] %}{{ m['input'] }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ ':' }}{% elif m['role'] == 'assistant' %}"
    "{{ '<|endoftext|>' }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize(
    ("max_length", "rows"),
    [
        (14, ["S1:⟦aE⟧2:⟦bbE⟧3i:⟦cE⟧"]),
        (13, ["S1:⟦aE⟧2:⟦bbE⟧", "S3i:⟦cE⟧"]),
        (9, ["S1:⟦aE⟧2:⟦bbE⟧", "S3i:⟦cE⟧"]),
        (8, ["S1:⟦aE⟧", "S2:⟦bbE⟧", "S3i:⟦cE⟧"]),
        # The second turn alone is longer, so its end is cut.
        (4, ["S1:⟦aE⟧", "S2:⟦bb⟧", "S3i:⟦c⟧"]),
        # The third keeps no answer.
        (3, ["S1:⟦a⟧", "S2:⟦b⟧"]),
    ],
)
@pytest.mark.parametrize("mask", [True, False])
def test_a_long_conversation_becomes_several_examples(
    letters: tiktoken.Encoding, max_length: int, rows: list[str], mask: bool
) -> None:
    texts = tokenise([ONE, LONG, ONE], COLON, letters, split_at=max_length + 1)
    assert (len(texts.sizes), len(texts.questions)) == (3, 3)
    examples = as_examples(texts, END, max_length, mask)
    assert examples.records.tolist() == [0, *[1] * len(rows), 2]
    assert examples.dropped == 0
    for row, text in enumerate(["q:⟦rE⟧", *rows, "q:⟦rE⟧"]):
        ids, learned = written(text)
        batch = examples.batch([row])
        assert batch.input_ids.tolist() == [ids[:-1]]
        labels = [
            token if is_learned or not mask else IGNORE_INDEX
            for token, is_learned in zip(ids[1:], learned[1:], strict=True)
        ]
        assert batch.labels.tolist() == [labels]

    # The order of the records is that of the rows asked for, without those of other records.
    part = as_examples(texts.part(np.array([2, 1])), END, max_length, mask)
    assert part.records.tolist() == [0, *[1] * len(rows)]
    assert part.text(1).tolist() == written(rows[0])[0]


def test_a_record_without_any_piece_counts_as_dropped_once(letters: tiktoken.Encoding) -> None:
    hopeless = Record("3", "i" * 9, "c", before=(Turn("user", "1" * 9), Turn("assistant", "a")))
    texts = tokenise([ONE, hopeless, LONG], COLON, letters, split_at=5)
    examples = as_examples(texts, END, 4, True)
    assert sorted(set(examples.records.tolist())) == [0, 2]
    assert examples.dropped == 1


def test_long_records_are_dropped_or_cut(letters: tiktoken.Encoding) -> None:
    texts = tokenise([ONE, LONG, ONE], COLON, letters)
    dropped = as_examples(texts, END, 9, True, drop_long=True)
    assert (dropped.records.tolist(), dropped.cut, dropped.dropped) == ([0, 2], 0, 1)
    cut = as_examples(texts, END, 9, True)
    assert (cut.records.tolist(), cut.cut, cut.dropped) == ([0, 1, 2], 1, 0)
    assert cut.text(1).tolist() == written("S1:⟦aE⟧2:⟦bbE⟧3")[0][:10]


def test_pieces_are_found_across_chunks(
    letters: tiktoken.Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = [ONE, LONG, LONG, ONE, LONG]
    whole = as_examples(tokenise(of, COLON, letters, split_at=10), END, 9, True)
    monkeypatch.setattr(tokens, "CHUNK", 2)
    chunks = as_examples(tokenise(of, COLON, letters, split_at=10), END, 9, True)
    assert chunks.records.tolist() == whole.records.tolist() == [0, 1, 1, 2, 2, 3, 4, 4]
    for row in range(8):
        assert chunks.text(row).tolist() == whole.text(row).tolist()
