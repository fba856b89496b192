"""The embedded data is the generator's, and the embedded model can be tuned as the README says."""

import hashlib
import itertools
import json
import math
import random
import re
from pathlib import Path

import pytest

import evaluate
import train
from sft.checkpoint.folder import EMBEDDED, load_pretrained
from sft.config.loading import from_dict
from sft.config.schema import DataConfig, EvaluateConfig, GenerateConfig, TrainConfig
from sft.data.sources import load_source
from sft.miniature import world
from sft.miniature.build import Texts
from sft.miniature.facts import all_facts
from sft.miniature.lessons import Teacher, lessons
from sft.miniature.world import Record, documents, records

# With five times the learning rate of the recipe, as many steps as a test has time for.
CONFIG = {
    "model": {"checkpoint": "gpt2-nano"},
    "data": {"mask_prompt": True},
    "optim": {"lr": 5e-4},
    "eval": {"every": 0, "batches": 1, "sample": False},
    "max_steps": 40,
    "logger": "none",
    "device": "cpu",
}


@pytest.fixture(scope="module")
def embedded() -> list[Record]:
    found: list[Record] = json.loads((EMBEDDED["gpt2-nano"].parent / "nano.json").read_text())
    return found


def test_embedded_records_are_those_of_the_generator(embedded: list[Record]) -> None:
    assert embedded == records(seed=0)
    assert len(embedded) == 1581 + 186 + 93


def test_the_single_turn_test_records_are_those_that_were_always_published(
    embedded: list[Record],
) -> None:
    tested = embedded[1581:1767]
    lines = [json.dumps(record, ensure_ascii=False) for record in tested[:162]]
    assert hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16] == "be21d611b32609c7"
    assert [len(record.get("history", [])) for record in tested] == 162 * [0] + 24 * [1]


def test_no_held_out_fact_is_in_the_training_instructions() -> None:
    for facts in all_facts(0).values():
        parts = world.divide(facts, random.Random(1))
        asked = {fact.ends for fact in parts.train}
        assert asked.isdisjoint(fact.ends for fact in parts.test + parts.validation)
        tested = {fact.ends for fact in parts.test}
        assert len(parts.test) == 2 * len(parts.validation) == len(tested)


def test_a_conversation_asks_the_same_of_another_thing(embedded: list[Record]) -> None:
    conversations = [record for record in embedded if "history" in record]
    assert len(conversations) == 240
    first = next(record for record in conversations if record["category"] == "plural")
    assert first == {
        "history": [['What is the plural of "fairy"?', 'The plural of "fairy" is "fairies".']],
        "instruction": "And of mountain?",
        "input": "",
        "output": 'The plural of "mountain" is "mountains".',
        "category": "plural",
    }
    for record in conversations:
        [[question, _]] = record["history"]
        assert record["instruction"].startswith("And ")
        assert question != record["instruction"]


def test_a_held_out_conversation_ends_in_a_question_that_training_does_not_ask(
    embedded: list[Record],
) -> None:
    training = {(r["category"], r["output"].split(" is ")[0]) for r in embedded[:1581]}
    for record in embedded[1581:]:
        if "history" in record and " is " in record["output"]:
            assert (record["category"], record["output"].split(" is ")[0]) not in training


def test_every_prompt_has_one_answer(embedded: list[Record]) -> None:
    answers: dict[str, set[str]] = {}
    for record in embedded:
        prompt = json.dumps([record["instruction"], record["input"], record.get("history")])
        answers.setdefault(prompt, set()).add(record["output"])
    assert all(len(found) == 1 for found in answers.values())


@pytest.mark.parametrize("told", [documents, lessons])
def test_documents_fit_the_context_and_never_show_the_template(told: Texts) -> None:
    tokenizer = load_pretrained("gpt2-nano").tokenizer
    texts = list(told(0, 200, lambda text: len(tokenizer.encode_ordinary(text)), 254))
    lengths = [len(tokenizer.encode_ordinary(text)) for text in texts]
    assert max(lengths) <= 254
    assert sum(lengths) / len(lengths) > 200
    assert not re.search("###|Below is an instruction", "".join(texts))


def test_no_lesson_asks_in_the_words_of_an_instruction_record(embedded: list[Record]) -> None:
    teacher = Teacher(all_facts(0), random.Random(2))
    text = "\n".join(itertools.islice(teacher.passages(), 4000))
    for record in embedded:
        words = f"{record['instruction']}\n" if record["input"] else record["instruction"]
        assert words not in text, words


def test_lessons_ask_again_and_answer_rightly() -> None:
    teacher = Teacher(all_facts(0), random.Random(1))
    teacher.skills = ["plural"]
    teacher.weights = [1.0]
    assert teacher.conversation() == (
        "Who knows the plural of a word?\nclock\n\n"
        'Eva:\nThe plural of "clock" is "clocks".\n'
        'Omar also asked about the plural of "rope".\n\n'
        'Eva:\nThe plural of "rope" is "ropes".\n'
        'What about "floor"?\n\n'
        'Eva:\nThe plural of "floor" is "floors".'
    )


def test_the_embedded_model_is_small_and_has_its_own_end_token() -> None:
    folder = EMBEDDED["gpt2-nano"]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10_000_000
    nano = load_pretrained("gpt2-nano")
    assert sum(p.numel() for p in nano.model.parameters()) == 4_273_664
    assert nano.model.config.n_positions == 256
    assert (nano.tokenizer.n_vocab, nano.tokenizer.eot_token) == (4096, 4095)
    assert len(nano.tokenizer.encode_ordinary("### Response:\n")) <= 4


def test_a_few_steps_teach_nano_to_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole recipe of the README takes a minute: `make test-long`."""
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    train.fit(from_dict(TrainConfig, CONFIG), run, changed="")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["answer_loss_before"] <= 0.5 * math.log(4096)

    config = EvaluateConfig(
        DataConfig(),
        GenerateConfig(max_new_tokens=24),
        run=str(run),
        device="cpu",
        limit=24,
        train_records=0,
    )
    evaluate.evaluate(config, [])
    measured = json.loads((run / "evaluation" / "summary.json").read_text())
    assert measured["records"] == 24
    assert measured["tuned"]["exact_match"] >= 0.5
    assert measured["tuned"]["exact_match"] >= measured["base"]["exact_match"] + 0.4
    responses = json.loads((run / "evaluation" / "responses.json").read_text())
    expected = load_source(DataConfig()).records[1581:1605]
    assert [row["output"] for row in responses] == [record.output for record in expected]
