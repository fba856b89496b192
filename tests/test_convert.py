"""State dicts of the book's code and of nanoGPT become folders with transformers' logits."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from sft import convert, load_pretrained
from sft.convert import convert_file
from sft.errors import InputError
from sft.prompts import PROMPTS

IDS = torch.arange(5, 65).view(2, 30)
State = dict[str, Tensor]

# The book's names of a layer's tensors, and transformers', whose matrices are (in, out).
LAYER = {
    "att.out_proj": "attn.c_proj",
    "ff.layers.0": "mlp.c_fc",
    "ff.layers.2": "mlp.c_proj",
}


def make(tied: bool) -> GPT2LMHeadModel:
    torch.manual_seed(4)
    config = GPT2Config(
        n_layer=2, n_head=2, n_embd=16, vocab_size=400, n_positions=64, tie_word_embeddings=tied
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def book(theirs: GPT2LMHeadModel, fused: bool = False) -> State:
    """The weights as the book's GPTModel has them, or its faster variant."""
    found = theirs.state_dict()
    scale, shift = ("weight", "bias") if fused else ("scale", "shift")
    state = {
        "tok_emb.weight": found["transformer.wte.weight"],
        "pos_emb.weight": found["transformer.wpe.weight"],
        f"final_norm.{scale}": found["transformer.ln_f.weight"],
        f"final_norm.{shift}": found["transformer.ln_f.bias"],
        "out_head.weight": found["lm_head.weight"],
    }
    for number in range(2):
        ours = f"trf_blocks.{number}"
        layer = f"transformer.h.{number}"
        for norm in ("1", "2"):
            state[f"{ours}.norm{norm}.{scale}"] = found[f"{layer}.ln_{norm}.weight"]
            state[f"{ours}.norm{norm}.{shift}"] = found[f"{layer}.ln_{norm}.bias"]
        for name, other in LAYER.items():
            name = "att.proj" if fused and name == "att.out_proj" else name
            state[f"{ours}.{name}.weight"] = found[f"{layer}.{other}.weight"].t()
            state[f"{ours}.{name}.bias"] = found[f"{layer}.{other}.bias"]
        qkv = found[f"{layer}.attn.c_attn.weight"].t()
        bias = found[f"{layer}.attn.c_attn.bias"]
        if fused:
            state[f"{ours}.att.qkv.weight"] = qkv
            state[f"{ours}.att.qkv.bias"] = bias
            continue
        for third, name in enumerate(("query", "key", "value")):
            rows = slice(16 * third, 16 * third + 16)
            state[f"{ours}.att.W_{name}.weight"] = qkv[rows]
            state[f"{ours}.att.W_{name}.bias"] = bias[rows]
        state[f"{ours}.att.mask"] = torch.ones(64, 64).triu(1)
    return state


def nanogpt(theirs: GPT2LMHeadModel, rows: int = 0) -> State:
    """The weights as nanoGPT's GPT has them, with more rows for ids that do not exist."""
    state = {}
    for name, tensor in theirs.state_dict().items():
        linear = tensor.dim() == 2 and ".h." in name
        state[name] = tensor.t().contiguous() if linear else tensor
    wide = torch.cat([theirs.lm_head.weight.detach(), torch.ones(rows, 16)])
    state |= {"transformer.wte.weight": wide, "lm_head.weight": wide}
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64)
    return state


@pytest.fixture
def converted(bpe: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(content: object, **options: object) -> Path:
        torch.save(content, tmp_path / "x.pth")
        convert_file(tmp_path / "x.pth", tmp_path / "out", tokenizer=bpe, **options)
        return tmp_path / "out"

    return run


@torch.no_grad()
def same_logits(folder: Path, theirs: GPT2LMHeadModel) -> None:
    expected = theirs(IDS).logits
    torch.testing.assert_close(load_pretrained(folder).model(IDS), expected, atol=1e-4, rtol=0)
    again = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(again(IDS).logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_the_books_model_gives_the_same_logits(converted, tied, fused):
    theirs = make(tied)
    folder = converted(book(theirs, fused), heads=2)
    same_logits(folder, theirs)
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is tied
    assert (config["n_layer"], config["n_positions"], config["n_inner"]) == (2, 64, None)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_of_wrapped_models_and_whole_checkpoints_are_read(converted, prefix):
    theirs = make(False)
    state = {prefix + name: tensor for name, tensor in book(theirs).items()}
    content = {"model_state_dict": state, "optimizer_state_dict": {"state": {}}}
    same_logits(converted(content, heads=2), theirs)


@torch.no_grad()
def test_left_out_biases_are_zero(converted):
    theirs = make(False)
    for block in theirs.transformer.h:
        block.attn.c_attn.bias.zero_()
    state = {name: value for name, value in book(theirs).items() if "W_" not in name}
    state |= {name: value for name, value in book(theirs).items() if name.endswith("y.weight")}
    state |= {name: value for name, value in book(theirs).items() if name.endswith("value.weight")}
    same_logits(converted(state, heads=2), theirs)


def test_nanogpts_checkpoint_gives_the_same_logits_without_its_added_rows(converted):
    theirs = make(True)
    content = {
        "model": {f"_orig_mod.{name}": value for name, value in nanogpt(theirs, 48).items()},
        "model_args": {"n_head": 2, "bias": True, "vocab_size": 448},
        "best_val_loss": torch.tensor(1.0),
        "iter_num": 5,
    }
    folder = converted(content)
    same_logits(folder, theirs)
    assert load_pretrained(folder).model.config.vocab_size == 400


@torch.no_grad()
def test_nanogpt_without_biases(converted):
    theirs = make(True)
    for name, parameter in theirs.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
    state = nanogpt(theirs)
    state = {name: value for name, value in state.items() if not name.endswith("bias")}
    same_logits(converted({"model": state, "model_args": {"n_head": 2}}), theirs)


def test_the_template_goes_into_the_folder(converted):
    folder = converted(book(make(False)), heads=2, prompt="alpaca")
    loaded = load_pretrained(folder)
    assert loaded.prompt == PROMPTS["alpaca"]
    assert "### Instruction" in loaded.chat_template


def without(name: str) -> Callable[[State], State]:
    return lambda state: {key: value for key, value in state.items() if key != name}


def with_tensor(name: str, value: object) -> Callable[[State], State]:
    return lambda state: state | {name: value}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("trf_blocks.1.att.W_key.weight"), "no tensor 'trf_blocks.1.att.W_key.weight'"),
        (without("trf_blocks.1.ff.layers.2.bias"), r"'h\.1\.mlp\.c_proj\.bias'"),
        (without("pos_emb.weight"), r"wpe\.weight"),
        (with_tensor("trf_blocks.0.lora.A", torch.ones(2)), r"'trf_blocks\.0\.lora\.A'"),
        (with_tensor("out_head.weight", torch.ones(2, 16)), r"'out_head\.weight'.*\(2, 16\)"),
        (with_tensor("tok_emb.weight", torch.ones(65, 16)), "65 rows.*400 tokens.*--tokenizer"),
        (with_tensor("tok_emb.weight", torch.ones(528, 16)), "528 rows.*400 tokens"),
        (with_tensor("final_norm.scale", torch.ones(16, dtype=torch.int8)), "final_norm.*int8"),
        (with_tensor("final_norm.scale", 1.0), "final_norm.*float"),
        (with_tensor("trf_blocks.0.norm1.scale", torch.ones(8)), r"norm1.*\(16,\).*\(8,\)"),
        (with_tensor("trf_blocks.0.att.W_key.weight", torch.ones(8, 16)), "differ in shape"),
        (lambda state: {"a": torch.ones(1)}, "expected the tensors of the book.*found a"),
        (lambda state: [1], "expected a state dict, found list"),
    ],
)
def test_state_dicts_that_do_not_fit_are_refused(converted, tmp_path, change, message):
    with pytest.raises(InputError, match=message) as error:
        converted(change(book(make(False))), heads=2)
    assert str(tmp_path / "x.pth") in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_unknown_heads_are_asked_for_and_must_agree(converted):
    with pytest.raises(InputError, match="16 wide has; give --heads"):
        converted(book(make(False)))
    with pytest.raises(InputError, match="n_head = 3"):
        converted(book(make(False)), heads=3)
    with pytest.raises(InputError, match=r"--heads: 4, but .* n_head = 2"):
        converted({"model": nanogpt(make(True)), "model_args": {"n_head": 2}}, heads=4)


class Harmful:
    def __reduce__(self):
        return (print, ("run",))


def test_code_in_a_file_is_not_run(converted, capsys):
    with pytest.raises(InputError, match="could run code and are not loaded"):
        converted({"tok_emb.weight": Harmful()})
    assert "run" not in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [b"", b"<html>", b"PK\x03\x04", pickle.dumps([1])[:-3]])
def test_files_that_are_not_whole_are_refused(bpe, tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.pth: not a (complete )?file of torch"):
        convert_file(tmp_path / "x.pth", tmp_path / "out", tokenizer=bpe)


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["convert", *map(str, arguments)])
    convert.main()


def test_the_door_recognises_its_source(bpe, tmp_path, checkpoint, monkeypatch):
    out = tmp_path / "out"
    content = {"model": nanogpt(make(True)), "model_args": {"n_head": 2}}
    torch.save(content, tmp_path / "ckpt.pt")
    run(monkeypatch, tmp_path, out, "--tokenizer", bpe)
    assert load_pretrained(out).model.config.n_head == 2

    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "hparams.json").touch()
    (tmp_path / "empty").mkdir()
    refusals = {
        tmp_path / "none": "no such file or folder",
        checkpoint: "is a Hugging Face folder already",
        tmp_path / "release": "no checkpoint, encoder.json",
        tmp_path / "empty": "neither OpenAI's release",
    }
    for source, message in refusals.items():
        with pytest.raises(InputError, match=message):
            run(monkeypatch, source, tmp_path / "other")
    with pytest.raises(InputError, match="--heads: OpenAI's release says this"):
        run(monkeypatch, tmp_path / "release", tmp_path / "other", "--heads", 2)
