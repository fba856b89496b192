"""The loss and the gradient of preferences beside TRL's DPOTrainer: `make test-trl`."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from sft import load_pretrained, save_pretrained
from sft.config.schema import DpoConfig
from sft.data.batches import Batch
from sft.gpt2.model import GPT, GPTConfig
from sft.objective import Preference, row_logprobs

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13]]
CHOSEN = [[20, 21, 399], [22, 399], [23, 24, 25, 26, 399]]
REJECTED = [[30, 399], [31, 32, 33, 399], [34, 35, 399]]

# Our names of the losses, and theirs.
KINDS = {"sigmoid": "sigmoid", "ipo": "ipo", "norm": "sigmoid_norm"}


def save(folder: Path, tokenizer: Any, seed: int) -> Path:
    """Write a random model in the form that both read."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(n_layer=2, n_head=2, n_embd=32, vocab_size=400, n_positions=64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    save_pretrained(model, folder, tokenizer)
    return folder


def our_batch() -> Batch:
    """Write the pairs as `Pairs.batch` does."""
    texts = [
        [*p, *a] for answers in (CHOSEN, REJECTED) for p, a in zip(PROMPTS, answers, strict=True)
    ]
    starts = [len(prompt) for prompt in PROMPTS] * 2
    width = max(map(len, texts)) - 1
    ids = torch.zeros(len(texts), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, (text, start) in enumerate(zip(texts, starts, strict=True)):
        ids[row, : len(text) - 1] = torch.tensor(text[:-1])
        labels[row, start - 1 : len(text) - 1] = torch.tensor(text[start:])
    lengths = torch.tensor([len(text) - 1 for text in texts])
    return Batch(ids, labels, lengths, torch.arange(3).repeat(2), 3, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_are_those_of_trl(tmp_path: Path, tokenizer: Any, kind: Any) -> None:
    folder = save(tmp_path / "policy", tokenizer, seed=1)
    base = save(tmp_path / "reference", tokenizer, seed=2)

    theirs = GPT2LMHeadModel.from_pretrained(folder)
    words = PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))
    words.pad_token = words.eos_token = "<|endoftext|>"
    text = {"prompt": ["a"], "chosen": ["b"], "rejected": ["c"]}
    trainer = DPOTrainer(
        model=theirs,
        ref_model=GPT2LMHeadModel.from_pretrained(base),
        args=DPOConfig(
            output_dir=str(tmp_path / "trl"),
            loss_type=[KINDS[kind]],
            beta=0.3,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
        ),
        train_dataset=Dataset.from_dict(text),
        processing_class=words,
    )
    examples = [
        {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}
        for prompt, chosen, rejected in zip(PROMPTS, CHOSEN, REJECTED, strict=True)
    ]
    trainer.model.eval()
    their_loss = trainer.compute_loss(trainer.model, DataCollatorForPreference(0)(examples))
    their_loss.backward()

    ours = load_pretrained(folder).model.eval()
    batch = our_batch()
    with torch.no_grad():
        reference = row_logprobs(load_pretrained(base).model.eval(), batch)
    found = Preference(ours, DpoConfig(0.3, kind)).loss(batch._replace(reference=reference))
    loss = found.sum / found.count
    loss.backward()

    torch.testing.assert_close(loss, their_loss, rtol=1e-5, atol=1e-6)
    gradients = {
        "wte.weight": ours.wte.weight.grad,
        "h.1.mlp.c_fc.weight": ours.h[1].mlp.c_fc.weight.grad.T,
        "h.0.attn.c_attn.bias": ours.h[0].attn.c_attn.bias.grad,
    }
    of_theirs = dict(theirs.transformer.named_parameters())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, of_theirs[name].grad, rtol=1e-3, atol=1e-6)
