"""A head of its own (`tie_word_embeddings: false`): the network, its files, training, LoRA."""

import json

import gguf
import pytest
import torch
from transformers import AutoModelForCausalLM

from sft import load_pretrained
from sft.checkpoint.folder import save_pretrained
from sft.checkpoint.gguf import read_gguf, write_gguf
from sft.config.schema import LoraConfig
from sft.errors import InputError
from sft.gpt2.generate import generate
from sft.gpt2.lora import add_lora
from sft.training.estimate import Shape, batch_bytes, weight_bytes
from tests.kept import loss_and_kept
from tests.training.batches import make_batch

IDS = torch.arange(5, 65).view(2, 30)


@pytest.fixture
def theirs(hf_model):
    model = hf_model(n_embd=32, tie_word_embeddings=False)
    assert not torch.equal(model.lm_head.weight, model.transformer.wte.weight)
    return model


@pytest.fixture
def loaded(theirs, hf_folder):
    return load_pretrained(hf_folder(theirs))


@torch.no_grad()
def test_logits_and_answers_equal_transformers(theirs, loaded):
    torch.testing.assert_close(loaded.model(IDS), theirs(IDS).logits, atol=1e-5, rtol=0)
    prompt = IDS[:1, :7]
    expected = theirs.generate(prompt, max_new_tokens=20, do_sample=False, pad_token_id=399)
    [found] = generate(loaded.model, prompt.tolist(), 20, eos_id=399)
    assert found == expected[0, 7 : 7 + len(found)].tolist()
    assert len(found) == 20


def test_losses_and_gradients_equal_transformers(theirs, loaded):
    ours = loaded.model
    labels = IDS.roll(-1, 1)
    ours.token_losses(IDS, labels).mean().backward()
    logits = theirs(IDS).logits.flatten(0, 1)
    torch.nn.functional.cross_entropy(logits, labels.flatten()).backward()
    pairs = [
        (ours.lm_head.weight, theirs.lm_head.weight),
        (ours.wte.weight, theirs.transformer.wte.weight),
        (ours.ln_f.weight, theirs.transformer.ln_f.weight),
    ]
    for mine, other in pairs:
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_saved_model_is_read_by_transformers(loaded, tmp_path):
    save_pretrained(loaded.model, tmp_path / "out", loaded.tokenizer)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(again(IDS).logits, loaded.model(IDS), atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "worst"), [("f32", 0), ("q8_0", 0.05)])
def test_gguf_holds_the_head(loaded, tmp_path, dtype, worst):
    path = tmp_path / "x.gguf"
    write_gguf(loaded.model, loaded.tokenizer, path, dtype, "x")
    names = [tensor.name for tensor in gguf.GGUFReader(path).tensors]
    assert names.count("output.weight") == 1
    again = read_gguf(path, loaded.model.config)
    assert (again(IDS) - loaded.model(IDS)).abs().max() <= worst


def test_lora_leaves_the_head_frozen(loaded):
    add_lora(loaded.model, LoraConfig(kind="default", rank=2))
    model = loaded.model
    assert not model.lm_head.weight.requires_grad
    model.token_losses(IDS, IDS).sum().backward()
    assert model.lm_head.weight.grad is None
    assert model.h[0].attn.c_attn.lora_B.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_estimate_counts_the_head(loaded, dtype):
    model = loaded.model.train()
    batch = make_batch(3, 60, False)
    batch.input_ids.clamp_(max=399)
    batch.labels.clamp_(max=399)
    found = batch_bytes(model, Shape.of(batch), dtype, "cpu")
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        _, kept = loss_and_kept(model, batch.input_ids, batch.labels, batch.lengths)
    assert found == pytest.approx(kept, rel=0.01)
    assert weight_bytes(model) == 16 * sum(p.numel() for p in model.parameters())


def test_a_missing_head_is_named(theirs, hf_folder):
    folder = hf_folder(theirs)
    tied = folder / "config.json"
    tied.write_text(tied.read_text().replace('"tie_word_embeddings": false', '"x": 1'))
    with pytest.raises(InputError, match=r"differs from wte.weight.*tie_word_embeddings"):
        load_pretrained(folder)
