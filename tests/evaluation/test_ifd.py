from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sft.checkpoint.folder import load_pretrained
from sft.config.schema import DataConfig
from sft.data.sources import load_source
from sft.data.splits import part_rows
from sft.errors import InputError
from sft.evaluation import ifd
from sft.evaluation.ifd import Difficulty, difficulty, with_difficulties

TEMPLATE = "{{ instruction }} {{ input }}: "


@pytest.fixture
def file(tmp_path: Path) -> DataConfig:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"instruction": "Say hi.", "output": "hi"}\n'
        '{"instruction": "Count.", "input": "to five", "output": "1 2 3 4 5"}\n'
        '{"instruction": "' + "A long question. " * 200 + '", "output": "Cut off."}\n'
        '{"instruction": "Be silent.", "output": ""}\n'
    )
    return DataConfig(source="file", path=str(path))


def test_the_losses_are_those_of_the_answer_after_its_question_and_after_an_end_token(
    file: DataConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ifd, "pick_precision", lambda *_: "32-true")
    nano = load_pretrained("gpt2-nano")
    source = load_source(file)
    found = difficulty(source, nano, TEMPLATE, "cpu")

    eot = nano.tokenizer.eot_token
    for place in (0, 1, 3):
        record = source.records[place]
        answer = [*nano.tokenizer.encode_ordinary(record.output), eot]
        question = nano.tokenizer.encode_ordinary(f"{record.instruction} {record.input}: ")
        for prompt, losses in ((question, found.asked), ([eot], found.alone)):
            text = torch.tensor([*prompt, *answer])
            logits = nano.model.eval()(text[None, :-1])[0, len(prompt) - 1 :]
            expected = F.cross_entropy(logits, torch.tensor(answer)).item()
            assert losses[place] == pytest.approx(expected, abs=1e-5)
    assert np.isnan(found.ratios).tolist() == [False, False, True, False]
    assert 2 not in found.order()

    # The second time, no model is loaded.
    monkeypatch.setattr(ifd, "load_pretrained", None)
    again = difficulty(source, nano, TEMPLATE, "cpu")
    assert again.asked[:2].tolist() == found.asked[:2].tolist()


def test_records_that_the_question_does_not_help_come_last() -> None:
    one = np.ones(5)
    asked = np.array([0.5, 1.0, 0.9, np.nan, 1.5])
    assert Difficulty(asked, one).order().tolist() == [2, 0, 1, 4]


def test_plain_text_has_no_question(file: DataConfig) -> None:
    with pytest.raises(InputError, match=r"data\.prompt"):
        difficulty(load_source(file), load_pretrained("gpt2-nano", device="meta"), "")


def test_the_hardest_records_are_kept_for_training(
    file: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.split = [1.0, 0.0, 0.0]
    source = load_source(file)
    assert with_difficulties(source, file, "gpt2-nano", None) is source

    file.keep = 0.5
    file.keep_by = "ifd"
    one = np.ones(4)
    hard = Difficulty(np.array([0.5, 1.5, np.nan, 0.7]), one)
    monkeypatch.setattr(ifd, "difficulty", lambda *_: hard)
    ready = with_difficulties(source, file, "gpt2-nano", None)
    assert part_rows(ready, file)["train"].tolist() == [0, 3]

    file.keep = 0.75
    assert part_rows(ready, file)["train"].tolist() == [0, 1, 3]
    with pytest.raises(InputError, match="keep_by"):
        part_rows(source, file)
