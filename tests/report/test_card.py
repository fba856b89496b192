"""The model card holds what the run and its evaluation found, and no scores of other weights."""

import copy
import dataclasses
import json
import shutil
from pathlib import Path
from unittest.mock import ANY

import pytest
import yaml
from hydra import compose, initialize_config_dir

from sft.atomic import sha256_of
from sft.config.loading import from_hydra
from sft.config.schema import DataConfig
from sft.dataclass_json import from_json
from sft.prompts import PROMPTS
from sft.report.card import card_text, write_card
from sft.scoring.results import EvaluationSummary
from sft.summaries import RunSummary
from tests.fixtures.record import MADE
from tests.summaries import CONTENT, run_summary

SUMMARY = run_summary()

# An evaluation without a base and without a judge, as its file holds it.
JUDGE = {"model": "llama3", "audit": None, "pairwise": None, "coverage": {}, "warning": None}
KEPT = json.loads((MADE / "run" / "evaluation" / "summary.json").read_text(encoding="utf-8"))
EVALUATION = KEPT | {
    "records": 110,
    "split": "test",
    "base": None,
    "decoding": {"temperature": 0.0},
    "tuned": KEPT["tuned"]
    | {
        "exact_match": 0.809,
        "token_f1": 0.9,
        "rouge_l": 0.9,
        "chrf": 0.9,
        "loss": 0.1012,
        "intervals": {"exact_match": [0.741, 0.862]},
        "sha256": "",
    },
}


def changed(**config) -> dict:
    summary = copy.deepcopy(CONTENT)
    summary["config"]["data"] |= config
    return summary


@pytest.fixture
def composed_alpaca() -> DataConfig:
    """data=alpaca, as a command would compose it."""
    conf = Path(__file__).parents[2] / "conf"
    with initialize_config_dir(str(conf), version_base="1.3"):
        return from_hydra(DataConfig, compose("data/alpaca").data)


def header(text: str) -> dict:
    return yaml.safe_load(text.split("---\n")[1])


def test_the_header_has_the_keys_of_the_hub() -> None:
    assert header(card_text("mine", SUMMARY, None, 1024)) == {
        "base_model": "openai-community/gpt2",
        "language": "en",
        "library_name": "transformers",
        "license": "mit",
        "pipeline_tag": "text-generation",
        "tags": ["gpt2", "instruction-tuning", "sft"],
    }


@pytest.mark.parametrize(
    ("base", "data", "licence", "named"),
    [
        ("gpt2-nano", {"licence": "apache-2.0"}, "apache-2.0", None),
        ("openai-community/gpt2-xl", {"licence": None}, "mit", "openai-community/gpt2-xl"),
        ("openai-community/gpt2", {"licence": "cc-by-4.0"}, "mit", "openai-community/gpt2"),
        ("openai-community/gpt2", {"licence": "cc-by-nc-4.0"}, "cc-by-nc-4.0", ANY),
        ("gpt2-nano", {"licence": "CC BY-NC 4.0"}, "CC BY-NC 4.0", None),
        # A run of an earlier version.
        ("openai-community/gpt2", {"source": "alpaca"}, "cc-by-nc-4.0", ANY),
        ("/home/me/base", {}, None, None),
        ("someone/else", {}, None, "someone/else"),
    ],
)
def test_the_header_names_the_licence_and_the_base(
    base: str, data: dict, licence: str | None, named: str | None
) -> None:
    summary = changed(**data)
    summary["checkpoint"]["source"] = base
    found = header(card_text("mine", from_json(RunSummary, summary), None, 1024))
    assert (found.get("license"), found.get("base_model")) == (licence, named)


def test_the_licence_of_the_data_stands_beside_their_address(composed_alpaca: DataConfig) -> None:
    summary = changed(**dataclasses.asdict(composed_alpaca))
    text = card_text("mine", from_json(RunSummary, summary), None, 1024)
    assert f"mine.json, from {composed_alpaca.url} (sha256" in text
    assert header(text)["license"] == composed_alpaca.licence == "cc-by-nc-4.0"
    assert "The data: cc-by-nc-4.0." in text
    assert "The data: as their owner says." in card_text("mine", SUMMARY, None, 1024)


def test_the_card_holds_data_recipe_and_losses() -> None:
    text = card_text("mine", SUMMARY, None, 1024)
    for part in (
        "# mine\n",
        "mine.json (sha256 `abab",
        "cut into 935 records for train, 110 records for test, 55 records for validation.",
        f"~~~text\n{PROMPTS['alpaca']}\n~~~",
        "| optimizer | AdamW, learning rate 5e-05 (constant), weight decay 0.1 |",
        "| batch | 64 records |",
        "| length | 2 epochs, 1,346 steps, 142,532 tokens, 22 s on cpu |",
        "| loss over | the answer |",
        "| training | 2.471 | 0.044 |",
        "| validation | 2.200 |  |",
        "| whole validation split, the weights kept | | 0.080 |",
        "These weights were not evaluated.",
        "at most 1024 tokens",
    ):
        assert part in text, part
    assert "secret" not in text
    assert "\n\n\n" not in text


def test_an_instruction_with_an_input_is_shown_as_the_template_takes_it() -> None:
    shown = "Rewrite the sentence in the past tense.\n\n### Input:\nShe sings.\n"
    assert shown in card_text("mine", SUMMARY, None, 1024)
    other = from_json(RunSummary, changed(prompt="alpaca-stanford"))
    assert "another prompt than any message gives" in card_text("mine", other, None, 1024)


def test_plain_text_has_no_chat() -> None:
    text = card_text("mine", from_json(RunSummary, changed(prompt="none")), None, 1024)
    assert "it has no chat template" in text
    assert '"role"' not in text


def test_a_model_of_conversations_is_shown_with_two_questions() -> None:
    single = card_text("mine", SUMMARY, None, 1024)
    talks = card_text("mine", SUMMARY, None, 1024, conversations=True)
    assert (single.count('"role": "user"'), talks.count('"role": "user"')) == (1, 2)
    assert "no system message" in single
    assert "no system message" not in talks
    assert "\n\n\n" not in talks


def test_scores_stand_with_their_intervals() -> None:
    text = card_text("mine", SUMMARY, from_json(EvaluationSummary, EVALUATION), 1024)
    assert "110 records of the test split, answered with temperature 0.0. In brackets" in text
    assert (
        "| | tuned |\n|---|---:|\n| exact match | 0.809 (0.741 to 0.862) |\n| token F1 | 0.900 |\n"
        in text
    )
    both = EVALUATION | {"base": EVALUATION["tuned"], "judge": JUDGE}
    text = card_text("mine", SUMMARY, from_json(EvaluationSummary, both), 1024)
    assert "; judged by llama3. In brackets" in text
    assert "| | base | tuned |\n|---|---:|---:|\n" in text


def test_an_adapter_is_named() -> None:
    summary = copy.deepcopy(CONTENT)
    summary["config"]["lora"] = {
        "kind": "default",
        "rank": 8,
        "alpha": 16,
        "targets": ["c_attn", "c_fc"],
    }
    text = card_text("m", from_json(RunSummary, summary), None, 8)
    assert "| trained | a LoRA adapter, rank 8, alpha 16, on c_attn, c_fc; merged |" in text


def test_scores_of_other_weights_do_not_count(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "summary.json").write_text(json.dumps(CONTENT))
    found = copy.deepcopy(EVALUATION)
    for sha256, there in ((sha256_of(checkpoint / "model.safetensors"), True), ("00" * 32, False)):
        found["tuned"]["sha256"] = sha256
        (tmp_path / "evaluation" / "summary.json").write_text(json.dumps(found))
        write_card(tmp_path)
        assert ("exact match" in (tmp_path / "model" / "README.md").read_text()) is there


def test_the_checkpoint_says_whether_it_was_tuned_on_conversations(
    checkpoint: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint, tmp_path / "model")
    (tmp_path / "summary.json").write_text(json.dumps(CONTENT))
    config = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    for talks in (False, True):
        config["sft_conversations"] = talks
        (tmp_path / "model" / "tokenizer_config.json").write_text(json.dumps(config))
        write_card(tmp_path)
        card = (tmp_path / "model" / "README.md").read_text()
        assert card.count('"role": "user"') == 1 + talks
