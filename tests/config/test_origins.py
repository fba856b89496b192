"""The run's log names each setting that is not a default, and where it came from."""

import dataclasses
from typing import Any

from hydra import compose

from sft.config.loading import from_hydra
from sft.config.origins import changed_settings
from sft.config.schema import TrainConfig


def origins(*overrides: str, resume: str | None = None, **later: Any) -> dict[str, str]:
    """Return the settings by where they came from."""
    whole = compose("train", list(overrides), return_hydra_config=True)
    hydra = whole.hydra
    config = from_hydra(TrainConfig, compose("train", list(overrides)))
    config = dataclasses.replace(config, resume=resume, **later)
    head, *lines = changed_settings(config, hydra).splitlines()
    assert "defaults" in head
    found = [line.strip().partition(": ") for line in lines]
    return {source: settings for source, _, settings in found}


def test_the_nano_run_names_nanos_recipe() -> None:
    assert origins() == {
        "model=gpt2-nano": "model.checkpoint=gpt2-nano",
        "data=nano": "data.licence=apache-2.0, data.mask_prompt=true, optim.lr=0.0001",
    }


def test_the_published_run_has_the_documented_settings() -> None:
    found = origins("model=gpt2-medium")
    assert found.keys() == {"model=gpt2-medium", "data=instructions"}
    named = {part.partition("=")[0] for part in found["data=instructions"].split(", ")}
    assert named == {"data.source", "data.url", "data.sha256"}


def test_the_command_line_is_named_first() -> None:
    found = origins("optim.lr=3e-4", "seed=7", "batch_size=8", "model.dropout=0.1")
    assert found["command line"] == "model.dropout=0.1, optim.lr=0.0003, seed=7"
    assert found["data=nano"] == "data.licence=apache-2.0, data.mask_prompt=true"


def test_an_experiment_is_named_before_the_data() -> None:
    found = origins("experiment=lora", "lora.rank=4")
    assert found["experiment=lora"] == "optim.lr=0.001"
    assert found["lora=default"] == "lora.kind=default"
    assert found["command line"] == "lora.rank=4"
    assert origins("experiment=masked")["experiment=masked"] == "data.mask_prompt=true"


def test_a_choice_of_a_group_names_its_keys() -> None:
    found = origins("data=json", "data.path=/x.json", "judge=ollama", "evaluate=true")
    assert found["judge=ollama"] == (
        "judge.kind=ollama, judge.model=llama3, judge.url=http://localhost:11434"
    )
    assert found["data=json"] == "data.source=json"
    assert found["command line"] == "data.path=/x.json, evaluate=true"


def test_lists_and_null_are_written_as_they_are_given() -> None:
    found = origins("data.split=[1,0,0]", "optim.betas=[0.9,0.95]", "checkpoint.every=3")
    assert "data.split=[1.0,0.0,0.0], optim.betas=[0.9,0.95]" in found["command line"]


def test_a_resumed_run_names_itself() -> None:
    found = origins("epochs=3", resume="/runs/one", seed=9)
    assert found["command line"] == "epochs=3"
    assert "seed=9" in found["the resumed run /runs/one"]
    assert "resume" not in str(found.values())


def test_a_setting_from_an_edited_file_is_not_blamed_on_a_choice() -> None:
    assert origins(batch_size=3)["conf/"] == "batch_size=3"
