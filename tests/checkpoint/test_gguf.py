"""A GGUF file as llama.cpp's own reader reads it. `make test-gguf` runs it in llama.cpp."""

from pathlib import Path

import gguf
import pytest
import torch

from sft.checkpoint.folder import load_pretrained
from sft.checkpoint.gguf import TYPES, read_gguf, write_gguf
from sft.checkpoint.verify import check_same, logits
from sft.errors import InputError
from sft.gpt2.model import GPT, GPTConfig

IDS = list(range(5, 60))


@pytest.fixture(scope="module")
def model() -> GPT:
    """A random model, wide enough for q8_0, with some ids that the tokenizer does not have."""
    torch.manual_seed(1)
    model = GPT(GPTConfig(n_layer=11, n_head=2, n_embd=32, vocab_size=410, n_positions=64))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


@pytest.fixture
def written(model, tokenizer, tmp_path):
    def write(dtype: str = "f16", chat_template: str | None = "{{ messages }}") -> Path:
        path = tmp_path / f"{dtype}.gguf"
        write_gguf(model, tokenizer, path, dtype, "tiny", chat_template)
        return path

    return write


@pytest.mark.parametrize(
    ("dtype", "worst"), [("f32", 0), ("f16", 1e-3), ("bf16", 1e-2), ("q8_0", 2e-2)]
)
def test_read_back_model_differs_by_rounding_alone(written, model, dtype, worst):
    again = read_gguf(written(dtype), model.config)
    assert check_same(logits(model, IDS), logits(again, IDS), dtype, "") <= worst
    vectors = [
        name
        for name, tensor in model.state_dict().items()
        if tensor.dim() == 1 or name == "wpe.weight"
    ]
    assert all(torch.equal(again.state_dict()[name], model.state_dict()[name]) for name in vectors)


@pytest.mark.parametrize("dtype", TYPES)
def test_names_shapes_and_types_are_those_of_llama_cpp(written, dtype):
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(written(dtype)).tensors}
    assert len(tensors) == 4 + 11 * 12
    assert "output.weight" not in tensors
    kind = TYPES[dtype][0]
    shapes = {
        "token_embd.weight": ([32, 410], kind),
        "position_embd.weight": ([32, 64], gguf.GGMLQuantizationType.F32),
        "blk.10.attn_qkv.weight": ([32, 96], kind),
        "blk.10.attn_output.weight": ([32, 32], kind),
        "blk.10.ffn_up.weight": ([32, 128], kind),
        "blk.10.ffn_down.weight": ([128, 32], kind),
        "blk.10.ffn_norm.bias": ([32], gguf.GGMLQuantizationType.F32),
        "output_norm.weight": ([32], gguf.GGMLQuantizationType.F32),
    }
    assert {
        name: (tensors[name].shape.tolist(), tensors[name].tensor_type) for name in shapes
    } == shapes


def test_metadata_of_architecture_and_tokenizer(written, tokenizer, bpe):
    fields = gguf.GGUFReader(written()).fields
    found = {name: field.contents() for name, field in fields.items()}
    expected = {
        "general.architecture": "gpt2",
        "general.name": "tiny",
        "gpt2.block_count": 11,
        "gpt2.context_length": 64,
        "gpt2.embedding_length": 32,
        "gpt2.feed_forward_length": 128,
        "gpt2.attention.head_count": 2,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.eos_token_id": tokenizer.eot_token,
        "tokenizer.ggml.bos_token_id": tokenizer.eot_token,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": "{{ messages }}",
    }
    assert {name: found[name] for name in expected} == expected
    assert found["gpt2.attention.layer_norm_epsilon"] == pytest.approx(1e-5)
    assert (
        found["tokenizer.ggml.merges"]
        == (bpe / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    )
    tokens, kinds = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    assert len(tokens) == len(set(tokens)) == 410
    assert tokens[399] == "<|endoftext|>"
    assert kinds == [1] * 399 + [3] + [5] * 10


def test_without_chat_template_the_key_is_absent(written):
    assert "tokenizer.chat_template" not in gguf.GGUFReader(written(chat_template=None)).fields


def test_q8_0_refuses_a_width_without_whole_blocks(checkpoint, tmp_path):
    loaded = load_pretrained(checkpoint)
    with pytest.raises(InputError, match=r"dtype: q8_0 .* 32, .* n_embd is 16; take f16"):
        write_gguf(loaded.model, loaded.tokenizer, tmp_path / "x.gguf", "q8_0", "x")
    assert not (tmp_path / "x.gguf").exists()


@pytest.mark.parametrize("change", ["turned", "swapped", "nan"])
def test_copy_with_a_wrong_tensor_is_refused(model, change):
    expected = logits(model, IDS)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    if change == "turned":
        state["h.0.attn.c_proj.weight"] = state["h.0.attn.c_proj.weight"].t()
    elif change == "swapped":
        state["h.0.ln_1.weight"], state["h.0.ln_2.weight"] = (
            state["h.0.ln_2.weight"],
            state["h.0.ln_1.weight"],
        )
    else:
        state["wpe.weight"][3, 3] = torch.nan
    other = GPT(model.config)
    other.load_state_dict(state)
    for dtype in TYPES:
        with pytest.raises(InputError, match="x: read back, it is another model"):
            check_same(expected, logits(other, IDS), dtype, "x")
