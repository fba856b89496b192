import math

import pytest
import torch
import torch.nn.functional as F

from sft.checkpoint.folder import Pretrained
from sft.data.batches import encode
from sft.data.records import Record
from sft.errors import InputError
from sft.evaluation.loss import losses

RECORDS = [
    Record("Say hi.", "", "hi"),
    Record("Count.", "to five", "1 2 3 4 5"),
    Record("Be silent.", "", ""),
]
TEMPLATE = "{{ instruction }} {{ input }}: "


def test_losses_are_the_sums_of_the_cross_entropies_of_each_token(pretrained: Pretrained) -> None:
    tokenizer, model = pretrained.tokenizer, pretrained.model.eval()
    every = []
    for record in RECORDS:
        prompt = tokenizer.encode_ordinary(f"{record.instruction} {record.input}: ")
        text = torch.tensor(
            [*prompt, *tokenizer.encode_ordinary(record.output), tokenizer.eot_token]
        )
        token_losses = F.cross_entropy(model(text[None, :-1])[0], text[1:], reduction="none")
        every.append((token_losses.tolist(), len(prompt) - 1))
    answers = [row[start:] for row, start in every]
    for mask_prompt in (True, False):
        learned = answers if mask_prompt else [row for row, _ in every]
        examples = encode(RECORDS, TEMPLATE, tokenizer, 64, mask_prompt)
        for batch_size in (1, 2, 16):
            found = losses(model, examples, batch_size, "32-true")
            assert found.answer_sums == pytest.approx([sum(row) for row in answers], abs=1e-5)
            assert found.answer_tokens.tolist() == [len(row) for row in answers]
            assert found.learned_sums == pytest.approx([sum(row) for row in learned], abs=1e-4)
            assert found.answers == pytest.approx(
                sum(map(sum, answers)) / sum(map(len, answers)), abs=1e-5
            )
            assert found.learned == pytest.approx(
                sum(map(sum, learned)) / sum(map(len, learned)), abs=1e-5
            )


def test_bf16_is_near_fp32_and_leaves_the_weights_in_fp32(pretrained: Pretrained) -> None:
    examples = encode(RECORDS, TEMPLATE, pretrained.tokenizer, 64, mask_prompt=True)
    exact = losses(pretrained.model.eval(), examples, 2, "32-true").answers
    assert losses(pretrained.model, examples, 2, "bf16-mixed").answers == pytest.approx(
        exact, rel=0.02
    )
    assert pretrained.model.wte.weight.dtype == torch.float32


def test_the_loss_of_no_record_is_nan(pretrained: Pretrained) -> None:
    found = losses(pretrained.model, encode([], "", pretrained.tokenizer, 64, True), 2, "32-true")
    assert len(found.answer_sums) == 0
    assert math.isnan(found.answers)


def test_weights_with_nan_are_refused(pretrained: Pretrained) -> None:
    with torch.no_grad():
        pretrained.model.ln_f.bias[0] = math.nan
    examples = encode(RECORDS, TEMPLATE, pretrained.tokenizer, 64, mask_prompt=True)
    with pytest.raises(InputError, match=r"precision: with 32-true the loss is not finite"):
        losses(pretrained.model, examples, 2, "32-true")
