import math

import pytest
import torch
import torch.nn.functional as F

from sft.config import InputError
from sft.data.dataset import encode
from sft.data.records import Record
from sft.evaluation.loss import mean_loss
from sft.gpt2.checkpoint import Pretrained

RECORDS = [Record("Say hi.", "", "hi"), Record("Count.", "to five", "1 2 3 4 5"), Record("Be silent.", "", "")]
TEMPLATE = "{{ instruction }} {{ input }}: "


def test_the_loss_is_a_mean_over_tokens_and_not_over_records(pretrained: Pretrained) -> None:
    tokenizer, model = pretrained.tokenizer, pretrained.model.eval()
    examples = encode(RECORDS, TEMPLATE, tokenizer, 64, mask_prompt=False)
    for mask_prompt in (True, False):
        losses: list[float] = []
        for record in RECORDS:
            prompt = tokenizer.encode_ordinary(f"{record.instruction} {record.input}: ")
            text = torch.tensor([*prompt, *tokenizer.encode_ordinary(record.output), tokenizer.eot_token])
            every = F.cross_entropy(model(text[None, :-1])[0], text[1:], reduction="none")
            losses += every[len(prompt) - 1 if mask_prompt else 0 :].tolist()
        for batch_size in (1, 2, 16):
            found = mean_loss(model, examples, batch_size, "32-true", mask_prompt)
            assert found == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_bf16_is_near_and_leaves_the_weights(pretrained: Pretrained) -> None:
    examples = encode(RECORDS, TEMPLATE, pretrained.tokenizer, 64, mask_prompt=True)
    exact = mean_loss(pretrained.model.eval(), examples, 2, "32-true", True)
    assert mean_loss(pretrained.model, examples, 2, "bf16-mixed", True) == pytest.approx(exact, rel=0.02)
    assert pretrained.model.wte.weight.dtype == torch.float32


def test_nothing_to_measure_is_not_a_number(pretrained: Pretrained) -> None:
    assert math.isnan(mean_loss(pretrained.model, encode([], "", pretrained.tokenizer, 64, True), 2, "32-true", True))


def test_weights_that_are_no_numbers_are_refused(pretrained: Pretrained) -> None:
    with torch.no_grad():
        pretrained.model.ln_f.bias[0] = math.nan
    examples = encode(RECORDS, TEMPLATE, pretrained.tokenizer, 64, mask_prompt=True)
    with pytest.raises(InputError, match=r"precision: with 32-true the loss is nan"):
        mean_loss(pretrained.model, examples, 2, "32-true", True)
