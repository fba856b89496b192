import errno
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sft.evaluation.answers as answers_module
from sft.checkpoint.folder import Pretrained, load_pretrained
from sft.config.schema import GenerateConfig
from sft.errors import InputError
from sft.evaluation.answers import (
    Answer,
    AnswerFile,
    Decoding,
    answer_all,
    answer_keys,
    cut,
    decode,
    most_agreed,
)
from sft.gpt2.generate import complete, generate, row_seeds

GREEDY = Decoding(max_new_tokens=8, temperature=0.0, top_k=None, seed=0, precision="32-true")
SAMPLED = replace(GREEDY, temperature=1.5, top_k=50)
PROMPTS = [[n, 2 * n, 7] for n in range(1, 8)] + [[9] * 12]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The prompts that a model was given, as they were given."""
    given: list[list[int]] = []

    def spy(model: Any, prompts: list[list[int]], *arguments: Any, **more: Any) -> Any:
        given.extend(prompts)
        return complete(model, prompts, *arguments, **more)

    monkeypatch.setattr(answers_module, "complete", spy)
    return given


def ask(
    pretrained: Pretrained,
    path: Path,
    decoding: Decoding = GREEDY,
    prompts: list[list[int]] = PROMPTS,
    size: int = 3,
) -> list[Answer]:
    return answer_all(
        pretrained.model.eval(), pretrained, prompts, decoding, AnswerFile(path), size
    )


def test_the_end_tokens_of_all_checkpoints_end_an_answer(pretrained: Pretrained) -> None:
    base = replace(pretrained, ends=("<|im_end|>", "\n"))
    found = Decoding.of(GenerateConfig(stop=["\n"]), 5, "32-true", [pretrained, base])
    assert found == Decoding(stop=["\n", "<|im_end|>"], seed=5, precision="32-true")

    # Without such tokens, the settings are those of earlier evaluations.
    plain = Decoding.of(GenerateConfig(), 5, "32-true", [pretrained])
    assert plain.changed() == {}


def test_answers_are_those_of_generate(pretrained: Pretrained, tmp_path: Path) -> None:
    eot = pretrained.tokenizer.eot_token
    for decoding in (GREEDY, SAMPLED):
        settings = decoding.max_new_tokens, decoding.temperature, decoding.top_k, eot, decoding.seed
        expected = [
            decode(pretrained.tokenizer, row)
            for row in generate(pretrained.model, PROMPTS, *settings)
        ]
        found = ask(pretrained, tmp_path / "answers.jsonl", decoding)
        assert [answer.text for answer in found] == expected
        assert len(set(expected)) > 4


def test_why_an_answer_ended_is_kept(pretrained: Pretrained, tmp_path: Path) -> None:
    found = ask(
        pretrained,
        tmp_path / "answers.jsonl",
        replace(SAMPLED, max_new_tokens=40, temperature=5.0, top_k=None),
    )
    assert {answer.finish_reason for answer in found} == {"stop", "length"}
    for answer in found:
        assert answer.tokens == 40 if answer.finish_reason == "length" else answer.tokens < 40


def test_answers_are_used_again(
    pretrained: Pretrained, tmp_path: Path, asked: list[list[int]]
) -> None:
    path = tmp_path / "answers.jsonl"
    first = ask(pretrained, path)
    content = path.read_bytes()
    assert asked == PROMPTS
    assert ask(pretrained, path, size=5) == first
    assert asked == PROMPTS
    assert path.read_bytes() == content


def test_the_same_prompt_twice_is_answered_once(
    pretrained: Pretrained, tmp_path: Path, asked: list[list[int]]
) -> None:
    [first, second] = ask(pretrained, tmp_path / "answers.jsonl", prompts=[[5, 6], [5, 6]])
    assert first == second
    assert asked == [[5, 6]]


def test_a_changed_record_is_answered_again(
    pretrained: Pretrained, tmp_path: Path, asked: list[list[int]]
) -> None:
    ask(pretrained, tmp_path / "answers.jsonl")
    asked.clear()
    ask(pretrained, tmp_path / "answers.jsonl", prompts=[*PROMPTS[:3], [4, 4, 4], *PROMPTS[4:]])
    assert asked == [[4, 4, 4]]


@pytest.mark.parametrize(
    "change",
    [
        {"max_new_tokens": 9},
        {"temperature": 1.4},
        {"top_k": 49},
        {"top_k": None},
        {"seed": 1},
        {"precision": "bf16"},
        {"top_p": 0.9},
        {"min_p": 0.1},
        {"repetition_penalty": 1.1},
        {"no_repeat_ngram": 3},
        {"frequency_penalty": 0.1},
        {"presence_penalty": 0.1},
        {"stop": ["x"]},
        {"best_of": 2},
    ],
)
def test_each_setting_is_a_part_of_the_key(change: dict[str, Any]) -> None:
    changed = answer_keys(PROMPTS, "weights", replace(SAMPLED, **change))
    assert not set(changed) & set(answer_keys(PROMPTS, "weights", SAMPLED))


def test_other_weights_have_other_keys_and_what_does_not_matter_has_none() -> None:
    keys = answer_keys(PROMPTS, "weights", GREEDY)
    assert not set(keys) & set(answer_keys(PROMPTS, "other weights", GREEDY))
    assert not set(keys) & set(answer_keys(PROMPTS, "weights", SAMPLED))
    assert answer_keys(PROMPTS, "weights", replace(GREEDY, top_k=5, seed=9)) == keys
    assert answer_keys(PROMPTS, "weights", replace(GREEDY, top_p=0.5, min_p=0.5)) == keys
    assert answer_keys(PROMPTS[:3], "weights", GREEDY) == keys[:3]  # as with limit=3


def test_answers_made_before_a_setting_was_added_have_their_keys() -> None:
    assert GREEDY.deciding(1) == {"max_new_tokens": 8, "precision": "32-true", "temperature": 0.0}
    drawn = {"max_new_tokens": 8, "precision": "32-true", "temperature": 1.5}
    assert SAMPLED.deciding(7) == drawn | {"top_k": 50, "seed": 7}
    summary = {"max_new_tokens": 8, "temperature": 0.0, "top_k": None, "seed": 0}
    assert GREEDY.in_summary() == summary | {"precision": "32-true"}
    changed = replace(GREEDY, no_repeat_ngram=3)
    assert changed.in_summary() == GREEDY.in_summary() | {"no_repeat_ngram": 3}


@pytest.mark.parametrize("size", [2, 8])
def test_a_stop_text_ends_an_answer_and_is_left_out(
    pretrained: Pretrained, tmp_path: Path, size: int
) -> None:
    plain = ask(pretrained, tmp_path / "plain.jsonl")
    text = plain[0].text
    stop = text[3:5]
    assert stop.strip()
    found = ask(pretrained, tmp_path / "stop.jsonl", replace(GREEDY, stop=["@@", stop]), size=size)
    assert found[0].text == text[: text.index(stop)]
    assert found[0].finish_reason == "stop"
    assert found[0].tokens < plain[0].tokens
    others = [one for one in plain if stop not in one.text]
    assert others
    assert all(one in found for one in others)


def test_the_earliest_stop_text_counts() -> None:
    assert cut("abcd", ["d", "bc"]) == "a"
    assert cut("abcd", ["x"]) == cut("abcd", []) == "abcd"


def test_the_answer_that_agrees_most_is_kept() -> None:
    texts = ["The fish swims.", "A hen hatches.", "The fish swam.", "The fish swims."]
    answers = [Answer(text, number, "stop") for number, text in enumerate(texts)]
    assert most_agreed(answers) == answers[0]
    assert most_agreed(answers[:3]) == answers[0]
    assert most_agreed(answers[1:]).text == "The fish swam."
    assert most_agreed(answers[:1]) == answers[0]


def test_best_of_draws_each_answer_from_a_seed_of_its_own(
    pretrained: Pretrained, tmp_path: Path, asked: list[list[int]]
) -> None:
    decoding = replace(SAMPLED, best_of=3)
    found = ask(pretrained, tmp_path / "answers.jsonl", decoding, size=5)
    assert len(asked) == 3 * len(PROMPTS)

    eot = pretrained.tokenizer.eot_token
    for prompt, seed, answer in zip(PROMPTS, row_seeds(0, len(PROMPTS)), found, strict=True):
        drawn = list(
            complete(pretrained.model, [prompt] * 3, 8, decoding.sampling, eot, row_seeds(seed, 3))
        )
        texts = {decode(pretrained.tokenizer, one.tokens) for one in drawn}
        assert len(texts) == 3
        assert answer.text in texts


@pytest.mark.parametrize("decoding", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_interrupted_anywhere_it_goes_on_to_the_same_answers(
    decoding: Decoding, pretrained: Pretrained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = ask(pretrained, tmp_path / "whole.jsonl", decoding, size=1)
    for done in range(len(PROMPTS)):
        path = tmp_path / f"{done}.jsonl"
        with monkeypatch.context() as context:
            context.setattr(answers_module, "complete", _interrupted_after(done))
            with pytest.raises(KeyboardInterrupt):
                ask(pretrained, path, decoding)
        assert len(path.read_text().splitlines()) == done if done else not path.exists()
        assert ask(pretrained, path, decoding, size=2) == whole
        keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
        assert sorted(keys) == sorted(set(keys))
        assert len(keys) == len(PROMPTS)


def _interrupted_after(count: int) -> Callable[..., Iterator[Any]]:
    def stopping(*arguments: Any, **more: Any) -> Iterator[Any]:
        for number, answer in enumerate(complete(*arguments, **more)):
            if number == count:
                raise KeyboardInterrupt
            yield answer

    return stopping


def test_a_torn_last_line_is_cut_off_wherever_it_was_torn(
    pretrained: Pretrained, tmp_path: Path
) -> None:
    path = tmp_path / "answers.jsonl"
    whole = ask(pretrained, path)
    content = path.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    for end in range(last, len(content), 7):
        path.write_bytes(content[:end])
        assert len(AnswerFile(path).by_key) == len(PROMPTS) - 1
        assert path.read_bytes() == content[:last]
    assert ask(pretrained, path) == whole
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"key": "k"}', '{"text": "t"}', ""])
def test_a_line_that_is_no_answer_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    AnswerFile(path).add("k", Answer("t", 1, "stop"))
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError, match=r"answers\.jsonl: line 2 "):
        AnswerFile(path)


def test_a_full_disk_leaves_the_answers_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = AnswerFile(tmp_path / "answers.jsonl")
    file.add("first", Answer("one", 1, "stop"))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        InputError, match=r"answers\.jsonl: cannot be written \(No space left.*run the same command"
    ):
        file.add("second", Answer("two", 1, "stop"))
    assert AnswerFile(file.path).by_key["first"] == Answer("one", 1, "stop")


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        AnswerFile(tmp_path)


def test_ids_beyond_the_tokenizer_have_no_text(
    tmp_path: Path, make_checkpoint: Callable[..., Path]
) -> None:
    padded = load_pretrained(make_checkpoint(tmp_path / "padded", seed=0, vocab_size=448))
    assert decode(padded.tokenizer, [72, 447, 73]) == padded.tokenizer.decode([72, 73])
    assert len(
        ask(padded, tmp_path / "answers.jsonl", replace(SAMPLED, temperature=9.0, top_k=None))
    ) == len(PROMPTS)
