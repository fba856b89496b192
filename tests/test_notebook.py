"""Training, asking and measuring in a notebook are train.py's and evaluate.py's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import sft
from sft.config import PROMPTS, InputError
from sft.gpt2.checkpoint import Pretrained
from sft.gpt2.model import GPT

RECORDS: list[dict[str, Any]] = [
    {"instruction": f"Say {'day' if i % 2 else 'fish'}.", "input": "", "output": "day" if i % 2 else "fish"}
    for i in range(24)
]


@pytest.fixture
def gpt2(checkpoint: Path) -> Pretrained:
    return sft.load_pretrained(checkpoint)


def test_it_learns_and_says_so(gpt2: Pretrained) -> None:
    before = sft.evaluate(gpt2, RECORDS[:4], max_new_tokens=4)
    losses = sft.finetune(gpt2, RECORDS, epochs=20, lr=1e-2, prompt="phi3", precision="32", device="cpu")
    assert len(losses) == 60
    assert losses[-1] < 0.1 * losses[0]
    assert gpt2.prompt == PROMPTS["phi3"]
    assert sft.answer(gpt2, ["Say fish.", {"instruction": "Say day."}], max_new_tokens=9) == ["fish", "day"]
    after = sft.evaluate(gpt2, RECORDS[:4], max_new_tokens=9)
    assert (before["exact_match"], after["exact_match"]) == (0, 1)
    assert after["loss"] < 0.5 < before["loss"]
    assert after["never_stopped"] == 0


def test_the_losses_are_those_of_a_run(gpt2: Pretrained, checkpoint: Path, tmp_path: Path) -> None:
    import train
    from sft.config import TrainConfig
    from sft.files import read_numbers
    from sft.merge import from_dict

    (tmp_path / "records.json").write_text(json.dumps(RECORDS))
    data = {"source": "json", "path": str(tmp_path / "records.json"), "split": [1, 0, 0], "mask_prompt": True}
    model = {"checkpoint": str(checkpoint), "allow_untrained": True}
    settings = {"device": "cpu", "precision": "32", "epochs": 1, "logger": "none"}
    config = {"model": model, "data": data, "optim": {"lr": 1e-3}, "eval": {"every": 0, "sample": False}, **settings}
    train.fit(from_dict(TrainConfig, config), tmp_path)
    losses = sft.finetune(gpt2, RECORDS, epochs=1, lr=1e-3, mask_prompt=True, device="cpu", precision="32")
    assert losses == [row["train/loss"] for row in read_numbers(tmp_path / "metrics.csv")]


def test_dropout_works_after_a_look_at_the_model(checkpoint: Path) -> None:
    first = []
    for look in (False, True):
        gpt2 = sft.load_pretrained(checkpoint, dropout=0.5)
        if look:
            sft.answer(gpt2, ["Say day."], max_new_tokens=1)
        first.append(sft.finetune(gpt2, RECORDS[:8], epochs=1, device="cpu", precision="32")[0])
    assert first[0] == first[1]
    plain = sft.finetune(sft.load_pretrained(checkpoint), RECORDS[:8], epochs=1, device="cpu", precision="32")[0]
    assert plain != first[0]


def test_rows_are_padded_to_few_different_shapes(gpt2: Pretrained, monkeypatch: pytest.MonkeyPatch) -> None:
    """In training and in measuring, as train.py does."""
    widths, losses = [], GPT.token_losses

    def noted(model: GPT, ids: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        widths.append(ids.shape[1])
        return losses(model, ids, *rest)

    monkeypatch.setattr(GPT, "token_losses", noted)
    sft.finetune(gpt2, RECORDS[:8], epochs=1, device="cpu", precision="32")
    sft.evaluate(gpt2, RECORDS[:8], max_new_tokens=1, device="cpu")
    assert [width % 16 for width in widths] == [0, 0]


def test_one_question_beyond_the_context_leaves_the_others_answered(gpt2: Pretrained) -> None:
    gpt2.prompt = PROMPTS["phi3"]
    long = {"instruction": "~" * 200, "input": "", "output": "x"}
    with pytest.warns(UserWarning, match="too long: record 2$"):
        found = sft.evaluate(gpt2, [RECORDS[0], long, RECORDS[1]], max_new_tokens=4)
    alone = sft.evaluate(gpt2, RECORDS[:2], max_new_tokens=4)
    assert (found.pop("not_asked"), alone.pop("not_asked")) == ({"too long": 1}, {})
    assert found == alone
    with pytest.warns(UserWarning, match="too long: record 1$"):
        answers = sft.answer(gpt2, [long["instruction"], "Say day.", "Say fish."], max_new_tokens=4)
    assert answers == [None, *sft.answer(gpt2, ["Say day.", "Say fish."], max_new_tokens=4)]
    with pytest.raises(InputError, match="none of the 1 records"):
        sft.answer(gpt2, long["instruction"])


def test_sampling_follows_the_seed(gpt2: Pretrained) -> None:
    def said(seed: int) -> list[str]:
        return sft.answer(gpt2, ["Say day."], max_new_tokens=12, temperature=1.5, seed=seed)

    assert said(1) == said(1) != said(2)


def test_what_cannot_be_used_is_named(gpt2: Pretrained) -> None:
    before = gpt2.model.wte.weight.clone()
    with pytest.raises(InputError, match=r"^records: record 2: no 'output'"):
        sft.finetune(gpt2, [RECORDS[0], {"instruction": "Say day."}])
    with pytest.raises(InputError, match=r"^data.prompt: unknown value 'chat'"):
        sft.finetune(gpt2, RECORDS, prompt="chat")
    with pytest.raises(InputError, match=r"^epochs: 0 is out of range"):
        sft.finetune(gpt2, RECORDS, epochs=0)
    with pytest.raises(InputError, match=r"^questions: record 1: 'instruction' is a number"):
        sft.answer(gpt2, [{"instruction": 3}])
    assert sft.answer(gpt2, []) == []
    assert torch.equal(gpt2.model.wte.weight, before)
