"""The embedded data is the generator's, and the embedded model can be tuned as the README says."""

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
from sft.miniature.facts import all_facts
from sft.miniature.world import Record, documents, records

CONFIG = {
    "model": {"checkpoint": "gpt2-nano"},
    "data": {"mask_prompt": True},
    "optim": {"lr": 1e-4},
    "eval": {"every": 50, "sample": False},
    "device": "cpu",
}


@pytest.fixture(scope="module")
def embedded() -> list[Record]:
    return json.loads((EMBEDDED["gpt2-nano"].parent / "nano.json").read_text())


def test_embedded_records_are_those_of_the_generator(embedded: list[Record]) -> None:
    assert embedded == records(seed=0)
    assert len(embedded) == 1377 + 162 + 81


def test_no_held_out_fact_is_in_the_training_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "as_record", lambda fact, request: fact)
    for facts in all_facts(0).values():
        train_part, test_part, validation_part = world.skill_records(facts, random.Random(1))
        asked = [{fact.ends for fact in part} for part in (train_part, test_part, validation_part)]
        assert asked[0].isdisjoint(asked[1] | asked[2])
        assert len(test_part) == 2 * len(validation_part) == len({fact.ends for fact in test_part})


def test_every_prompt_has_one_answer(embedded: list[Record]) -> None:
    answers: dict[tuple[str, str], set[str]] = {}
    for record in embedded:
        answers.setdefault((record["instruction"], record["input"]), set()).add(record["output"])
    assert all(len(found) == 1 for found in answers.values())


def test_documents_fit_the_context_and_never_show_the_template() -> None:
    tokenizer = load_pretrained("gpt2-nano").tokenizer
    texts = list(documents(0, 200, lambda text: len(tokenizer.encode_ordinary(text)), 254))
    lengths = [len(tokenizer.encode_ordinary(text)) for text in texts]
    assert max(lengths) <= 254
    assert sum(lengths) / len(lengths) > 200
    assert not re.search("###|Below is an instruction", "".join(texts))


def test_the_embedded_model_is_small_and_has_its_own_end_token() -> None:
    folder = EMBEDDED["gpt2-nano"]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 10_000_000
    nano = load_pretrained("gpt2-nano")
    assert sum(p.numel() for p in nano.model.parameters()) == 4_273_664
    assert nano.model.config.n_positions == 256
    assert (nano.tokenizer.n_vocab, nano.tokenizer.eot_token) == (4096, 4095)
    assert len(nano.tokenizer.encode_ordinary("### Response:\n")) <= 4


def test_tuned_nano_answers_and_the_base_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    train.fit(from_dict(TrainConfig, CONFIG), run, changed="")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["answer_loss_before"] <= 0.5 * math.log(4096)

    config = EvaluateConfig(
        DataConfig(), GenerateConfig(max_new_tokens=64), run=str(run), device="cpu"
    )
    evaluate.evaluate(config, [])
    measured = json.loads((run / "evaluation" / "summary.json").read_text())
    assert measured["records"] == 162
    assert measured["tuned"]["exact_match"] >= 0.6
    assert measured["tuned"]["exact_match"] >= measured["base"]["exact_match"] + 0.4
    responses = json.loads((run / "evaluation" / "responses.json").read_text())
    expected = load_source(DataConfig()).records[1377:1539]
    assert [row["output"] for row in responses] == [record.output for record in expected]
