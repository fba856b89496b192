"""Checkpoints of every known form are read and written. Damaged ones are refused in one line."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiktoken
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sft import atomic as files
from sft import load_pretrained, save_pretrained
from sft.atomic import sha256_of
from sft.checkpoint import folder as checkpoints
from sft.checkpoint.folder import save_adapter
from sft.config.schema import LoraConfig
from sft.errors import InputError
from sft.gpt2.lora import add_lora
from sft.gpt2.model import GPT, GPTConfig
from sft.prompts import PROMPTS

IDS = torch.arange(40).view(2, 20)


@pytest.fixture
def folder(checkpoint: Path, tmp_path: Path) -> Path:
    """A copy of the tiny checkpoint, to be changed."""
    return Path(shutil.copytree(checkpoint, tmp_path / "tiny"))


def change_tensors(folder: Path, change) -> None:
    """Rewrite model.safetensors with what `change` makes of its tensors."""
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", metadata={"format": "pt"})


def change_config(folder: Path, **values) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def refused(folder, message: str) -> None:
    with pytest.raises(InputError, match=message) as error:
        load_pretrained(folder)
    assert "\n" not in str(error.value)


# In


def test_loaded_checkpoint_has_prompt_base_source_and_hash(checkpoint, tokenizer):
    loaded = load_pretrained(checkpoint)
    assert loaded.prompt == PROMPTS["alpaca"]
    assert loaded.base == "someone/base"
    assert (loaded.source, loaded.revision) == (str(checkpoint), None)
    assert loaded.sha256 == sha256_of(checkpoint / "model.safetensors")
    assert loaded.tokenizer.eot_token == tokenizer.eot_token == loaded.model.config.eos_token_id
    assert all(
        parameter.is_contiguous() and parameter.requires_grad
        for parameter in loaded.model.parameters()
    )


@pytest.mark.parametrize(
    ("eos_token", "eos_token_id", "expected"),
    [
        ("<|endoftext|>", 399, ()),
        ("<|im_end|>", 399, ("<|im_end|>",)),
        ({"content": "<|im_end|>"}, None, ("<|im_end|>",)),
        ("<|endoftext|>", 400, ("<|im_end|>",)),
        ("<|endoftext|>", [399, 400], ("<|im_end|>",)),
        # A letter, an id that is not there, and a name that is no token end nothing.
        ("a", [65, 9999], ()),
        ("<|other|>", None, ()),
    ],
)
def test_end_tokens_of_another_program_are_read(
    tokenizer, tmp_path, eos_token, eos_token_id, expected
):
    assert tokenizer.eot_token == 399
    marked = tiktoken.Encoding(
        "marked",
        pat_str=tokenizer._pat_str,
        mergeable_ranks=tokenizer._mergeable_ranks,
        special_tokens={"<|endoftext|>": 399, "<|im_end|>": 400},
    )
    folder = tmp_path / "marked"
    config = GPTConfig(n_layer=1, n_head=1, n_embd=8, vocab_size=401, n_positions=16)
    save_pretrained(GPT(config), folder, marked)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": eos_token_id}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": eos_token}))
    loaded = load_pretrained(folder)
    assert loaded.ends == expected

    # A copy ends at the same tokens, and so does an adapter.
    save_pretrained(loaded.model, tmp_path / "copy", loaded.tokenizer, ends=loaded.ends)
    assert load_pretrained(tmp_path / "copy").ends == expected
    add_lora(loaded.model, LoraConfig())
    save_adapter(loaded, LoraConfig(), tmp_path / "adapter")
    assert load_pretrained(tmp_path / "adapter").ends == expected


def test_a_folder_without_tokenizer_config_has_no_prompt(folder):
    (folder / "tokenizer_config.json").unlink()
    assert load_pretrained(folder).prompt is None


def strip_prefix(tensors):
    return {key.removeprefix("transformer."): tensor for key, tensor in tensors.items()}


def add_masks(tensors):
    for layer in range(2):
        tensors[f"transformer.h.{layer}.attn.bias"] = torch.ones(
            1, 1, 128, 128, dtype=torch.bool
        ).tril()
        tensors[f"transformer.h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    return tensors


def add_head(tensors):
    return tensors | {"lm_head.weight": tensors["transformer.wte.weight"].clone()}


@pytest.mark.parametrize(
    "change", [strip_prefix, add_masks, add_head, lambda tensors: strip_prefix(add_masks(tensors))]
)
def test_tensor_names_of_older_files_are_read(checkpoint, folder, change):
    change_tensors(folder, change)
    expected, found = (
        load_pretrained(checkpoint).model.state_dict(),
        load_pretrained(folder).model.state_dict(),
    )
    assert list(expected) == list(found)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_stored_type_is_converted_to_the_wanted_one(checkpoint, folder, stored, wanted):
    change_tensors(
        folder, lambda tensors: {key: tensor.to(stored) for key, tensor in tensors.items()}
    )
    exact = load_pretrained(checkpoint).model.state_dict()
    for name, tensor in load_pretrained(folder, dtype=wanted).model.state_dict().items():
        assert torch.equal(tensor, exact[name].to(stored).to(wanted))


def test_dropout_is_the_callers_choice(folder):
    change_config(folder, resid_pdrop=0.1)
    assert load_pretrained(folder).model.config.dropout == 0.0
    assert load_pretrained(folder, dropout=0.25).model.h[0].mlp.dropout.p == 0.25


@torch.no_grad()
def test_sharded_checkpoint_gives_transformers_logits(hf_model, hf_folder):
    theirs = hf_model(n_embd=32)
    folder = hf_folder(theirs, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    loaded = load_pretrained(folder)
    torch.testing.assert_close(loaded.model(IDS), theirs(IDS).logits, atol=1e-5, rtol=0)
    assert len(loaded.sha256) == 64


def test_vocabulary_padded_in_the_model_is_read(folder):
    def pad(tensors):
        tensors["transformer.wte.weight"] = torch.cat(
            [tensors["transformer.wte.weight"], torch.zeros(48, 16)]
        )
        return tensors

    change_tensors(folder, pad)
    change_config(folder, vocab_size=448)
    assert load_pretrained(folder).model(IDS).shape[-1] == 448


def test_a_folder_wins_over_the_hub(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    folder.rename("gpt2")
    assert load_pretrained("gpt2").source == "gpt2"


def test_the_embedded_model_needs_no_hub(folder, monkeypatch):
    monkeypatch.setitem(checkpoints.EMBEDDED, "gpt2-nano", folder)
    loaded = load_pretrained("gpt2-nano")
    assert (loaded.source, loaded.revision) == ("gpt2-nano", None)


MEMORY = """
import resource, sys, torch
from sft import load_pretrained
def resident(): return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()
before = resident()
open("/proc/self/clear_refs", "w").write("5")  # resets the peak
kept = load_pretrained(sys.argv[1])
peak = [line for line in open("/proc/self/status") if line.startswith("VmHWM")][0]
print(int(peak.split()[1]) * 1024 - before)
"""


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak is read from Linux's /proc"
)
def test_memory_stays_near_the_files_size(tokenizer, tmp_path):
    config = GPTConfig(n_layer=8, n_head=8, n_embd=768, vocab_size=10_000, n_positions=256)
    with torch.device("meta"):
        model = GPT(config)
    model.to_empty(device="cpu")  # zeros, or whatever the memory holds
    save_pretrained(model, tmp_path / "big", tokenizer)
    size = (tmp_path / "big" / "model.safetensors").stat().st_size
    assert size > 250e6
    arguments = [sys.executable, "-c", MEMORY, str(tmp_path / "big")]
    peak = int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    assert 0.9 * size < peak <= 1.15 * size


# Refused


@pytest.mark.parametrize(
    "missing", ["config.json", "vocab.json", "merges.txt", "model.safetensors"]
)
def test_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    refused(
        folder,
        f"no {missing}; .* found .*generation_config.json",
    )


def test_empty_folder_is_refused(tmp_path):
    refused(tmp_path, "no config.json, vocab.json, merges.txt, model.safetensors; .* found nothing")


def test_pickled_weights_are_not_loaded(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    refused(
        folder,
        "no model.safetensors; .*pickled.* transformers",
    )


@pytest.mark.parametrize("name", ["./no/such", "/no/such", "~/no-such", "a/b/c", "..", ""])
def test_path_that_leads_nowhere_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(
        name, "no such folder" if name != ".." else "expected a checkpoint in Hugging Face format"
    )


def test_file_instead_of_a_folder_is_refused(folder):
    refused(folder / "config.json", "config.json: a file; expected the folder of a checkpoint")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "model.safetensors: empty"),
        (
            b"<!DOCTYPE html><html>Log in</html>" * 20,
            "model.safetensors: a web page",
        ),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n",
            "a Git LFS pointer, .*git lfs pull",
        ),
        (b"\x80\x02}q\x00." * 50, "model.safetensors: not a whole safetensors file"),
    ],
)
def test_weights_that_are_not_safetensors_are_refused(folder, content, message):
    (folder / "model.safetensors").write_bytes(content)
    refused(folder, message)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.999])
def test_truncated_safetensors_are_refused(folder, part):
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: int(len(content) * part)])
    refused(folder, "model.safetensors: not a whole .*; get the file again")


def without(key):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if key not in name}


def with_tensor(key, tensor):
    return lambda tensors: tensors | {key: tensor}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("h.1.mlp.c_fc.weight"), r"no tensor 'h.1.mlp.c_fc.weight' of shape \(16, 64\)"),
        (without("h.1."), r"no tensor 'h.1.attn.c_attn.bias' of shape \(48,\), nor 11 more"),
        (without("wte"), r"no tensor 'wte.weight' of shape \(400, 16\)"),
        (
            with_tensor("transformer.h.2.ln_1.bias", torch.ones(16)),
            "tensor 'h.2.ln_1.bias' is not part of this model",
        ),
        (
            with_tensor("score.weight", torch.ones(2, 16)),
            "tensor 'score.weight' is not part of this model",
        ),
        (
            with_tensor("transformer.wpe.weight", torch.ones(64, 16)),
            r"tensor 'transformer.wpe.weight': expected shape \(128, 16\), found \(64, 16\)",
        ),
        (
            with_tensor("transformer.h.0.mlp.c_fc.weight", torch.ones(64, 16)),
            r"'transformer.h.0.mlp.c_fc.weight': expected shape \(16, 64\), found \(64, 16\)",
        ),
        (
            with_tensor("transformer.ln_f.bias", torch.ones(16, dtype=torch.int8)),
            "'transformer.ln_f.bias': expected one of F32, F16, BF16, found I8",
        ),
        (
            with_tensor("transformer.ln_f.bias", torch.ones(16, dtype=torch.float64)),
            "expected one of F32, F16, BF16, found F64",
        ),
        (
            with_tensor("lm_head.weight", torch.ones(400, 16)),
            "'lm_head.weight' differs from wte.weight, but config.json",
        ),
        (
            with_tensor("lm_head.weight", torch.ones(399, 16)),
            r"'lm_head.weight': expected shape \(400, 16\), found",
        ),
        (with_tensor("ln_f.bias", torch.ones(16)), "tensor 'ln_f.bias' is there twice"),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_refused(folder, change, message):
    change_tensors(folder, change)
    refused(folder, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "config.json: not JSON"),
        ('{"model_type": "gpt2",', "config.json: not JSON .*line 1 column"),
        ("[]", "config.json: expected a JSON object, found list"),
        ("{}", "config.json: model_type: missing"),
        (
            '{"model_type": "bert"}',
            "config.json: model_type: 'bert' .* expected 'gpt2'",
        ),
    ],
)
def test_damaged_config_is_refused(folder, content, message):
    (folder / "config.json").write_text(content)
    refused(folder, message)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"n_head": 3}, "config.json: n_embd: 16 cannot be divided among n_head = 3"),
        ({"n_layer": 0}, "config.json: n_layer: expected a positive integer, found 0"),
        (
            {"activation_function": "relu"},
            "config.json: activation_function: 'relu' is not implemented",
        ),
        ({"vocab_size": 399}, "vocab.json: 400 tokens, but config.json has vocab_size 399"),
        (
            {"vocab_size": 401},
            r"'transformer.wte.weight': expected shape \(401, 16\), found \(400, 16\)",
        ),
        ({"n_layer": 3}, "no tensor 'h.2.attn.c_attn.bias'"),
        ({"_name_or_path": 5}, "config.json: _name_or_path: expected text, found 5"),
    ],
)
def test_config_values_that_do_not_fit_are_refused(folder, values, message):
    change_config(folder, **values)
    refused(folder, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"sft_prompt": 3}', "tokenizer_config.json: sft_prompt: expected text, found 3"),
        ("{", "tokenizer_config.json: not JSON"),
    ],
)
def test_damaged_tokenizer_config_is_refused(folder, content, message):
    (folder / "tokenizer_config.json").write_text(content)
    refused(folder, message)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ("{", "model.safetensors.index.json: not JSON"),
        ("[]", "model.safetensors.index.json: expected a JSON object, found list"),
        ('{"weight_map": []}', "expected JSON with a `weight_map`"),
        ('{"weight_map": {"a": 5}}', "5 is not the name of a .safetensors file beside it"),
        ('{"weight_map": {}}', "names no file"),
        (
            '{"weight_map": {"a": "../secret.safetensors"}}',
            "'../secret.safetensors' is not the name",
        ),
        ('{"weight_map": {"a": "/etc/passwd"}}', "'/etc/passwd' is not the name"),
        (
            '{"weight_map": {"a": "gone.safetensors"}}',
            "gone.safetensors: no such file, but model.safetensors.index.json",
        ),
        ('{"weight_map": {"wte.weight": "part.safetensors"}}', "no tensor 'h.0.attn.c_attn.bias'"),
    ],
)
def test_index_that_does_not_fit_is_refused(folder, index, message):
    (folder / "model.safetensors").unlink()
    save_file({"wte.weight": torch.ones(400, 16)}, folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(index)
    refused(folder, message)


# Out


@torch.no_grad()
@pytest.mark.parametrize("form", ["whole", "sharded", "fp16", "bf16"])
def test_transformers_reads_what_was_loaded_and_saved(hf_model, hf_folder, tmp_path, form):
    theirs = hf_model(n_embd=32)
    theirs.to({"fp16": torch.float16, "bf16": torch.bfloat16}.get(form, torch.float32))
    loaded = load_pretrained(
        hf_folder(theirs, max_shard_size="40KB" if form == "sharded" else "5GB")
    )
    save_pretrained(loaded.model, tmp_path / "out", loaded.tokenizer, prompt="{instruction}")
    again, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    torch.testing.assert_close(
        again.eval()(IDS).logits, theirs.float()(IDS).logits, atol=1e-5, rtol=0
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "Write a response,  naïve 😀\n"
    assert tokenizer(text)["input_ids"] == loaded.tokenizer.encode_ordinary(text)
    assert tokenizer.eos_token_id == again.config.eos_token_id == loaded.tokenizer.eot_token
    assert tokenizer.model_max_length == 64


def test_saved_files_equal_the_loaded_ones_byte_for_byte(checkpoint, tmp_path):
    loaded = load_pretrained(checkpoint)
    save_pretrained(loaded.model, tmp_path / "out", loaded.tokenizer, loaded.prompt, loaded.base)
    for path in checkpoint.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_chat_template_is_saved_and_loaded(checkpoint, tmp_path):
    loaded = load_pretrained(checkpoint)
    assert loaded.chat_template is None
    save_pretrained(
        loaded.model, tmp_path / "out", loaded.tokenizer, chat_template="{{ messages }}"
    )
    assert load_pretrained(tmp_path / "out").chat_template == "{{ messages }}"
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == "{{ messages }}"


def as_transformers_5(folder, template=None):
    """transformers 5 writes other files than this project."""
    out = folder.with_name("again")
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(out)
    return out


def test_a_folder_that_transformers_saved_again_is_the_same_model(folder):
    expected, out = (
        load_pretrained(folder),
        as_transformers_5(folder, "{{ messages[0]['content'] }}"),
    )
    assert {path.name for path in out.iterdir()} >= {"tokenizer.json", "chat_template.jinja"}
    assert not (out / "vocab.json").exists()
    loaded = load_pretrained(out)
    assert torch.equal(loaded.model(IDS), expected.model(IDS))
    assert loaded.tokenizer._mergeable_ranks == expected.tokenizer._mergeable_ranks
    assert loaded.chat_template == "{{ messages[0]['content'] }}"
    save_pretrained(loaded.model, out.with_name("third"), loaded.tokenizer)
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        assert (out.with_name("third") / name).read_bytes() == (folder / name).read_bytes()


@pytest.mark.parametrize(
    ("config", "file", "expected"),
    [
        ("a", None, "a"),
        (None, "b", "b"),
        ("a", "b", "b"),
        ([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}], None, "d"),
        (None, None, None),
    ],
)
def test_where_a_chat_template_is_found(folder, config, file, expected):
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": config}))
    if file:
        (folder / "chat_template.jinja").write_text(file)
    assert load_pretrained(folder).chat_template == expected


def test_chat_templates_without_a_default_are_refused(folder):
    config = {"chat_template": [{"name": "rag", "template": "r"}]}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    refused(folder, "chat_template: no template named 'default' among 'rag'")


def test_a_model_card_stays_when_better_weights_come(folder):
    (folder / "README.md").write_text("the card")
    loaded = load_pretrained(folder)
    with torch.no_grad():
        loaded.model.wpe.weight.zero_()
    save_pretrained(loaded.model, folder, loaded.tokenizer)
    assert (folder / "README.md").read_text() == "the card"
    assert not load_pretrained(folder).model.wpe.weight.any()


def test_dtype_of_the_file_leaves_the_model_alone(checkpoint, tmp_path):
    loaded = load_pretrained(checkpoint)
    save_pretrained(loaded.model, tmp_path / "half", loaded.tokenizer, dtype=torch.float16)
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "float16"
    assert {
        tensor.dtype for tensor in load_file(tmp_path / "half" / "model.safetensors").values()
    } == {torch.float16}
    assert loaded.model.wte.weight.dtype == torch.float32


def test_all_saved_files_have_the_same_permissions(checkpoint):
    assert len({path.stat().st_mode for path in checkpoint.iterdir()}) == 1


def test_a_checkpoint_is_replaced_whole(folder):
    loaded = load_pretrained(folder)
    with torch.no_grad():
        loaded.model.wpe.weight.zero_()
    save_pretrained(loaded.model, folder, loaded.tokenizer)
    assert not load_pretrained(folder).model.wpe.weight.any()
    assert load_pretrained(folder).prompt is None
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_other_files_are_not_lost(folder):
    loaded = load_pretrained(folder)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"tiny: .*\(notes.txt\).*; give a new folder"):
        save_pretrained(loaded.model, folder, loaded.tokenizer)
    with pytest.raises(InputError, match=r"notes.txt: is a file; expected a folder"):
        save_pretrained(loaded.model, folder / "notes.txt", loaded.tokenizer)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize(
    ("module", "failing"),
    [(checkpoints, "save_tokenizer"), (files, "_fsync"), (checkpoints, "write_config")],
)
def test_a_full_disk_leaves_the_old_checkpoint(folder, monkeypatch, module, failing):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    loaded = load_pretrained(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(module, failing, full)
    with pytest.raises(InputError, match=r"tiny: cannot be written \(No space left on device\)"):
        save_pretrained(loaded.model, folder, loaded.tokenizer)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_old_checkpoint_comes_back_if_the_new_one_cannot_be_moved(folder, monkeypatch):
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if target == folder and not path.name.endswith(".old"):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(path, target)

    loaded = load_pretrained(folder)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(InputError, match="cannot be written"):
        save_pretrained(loaded.model, folder, loaded.tokenizer)
    assert load_pretrained(folder).prompt == loaded.prompt
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_file_size_limit_is_reported_and_leaves_nothing(checkpoint, tmp_path):
    resource = pytest.importorskip("resource")
    loaded = load_pretrained(checkpoint)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(InputError, match=r"out: cannot be written \(.*File too large"):
            save_pretrained(loaded.model, tmp_path / "out", loaded.tokenizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_folder_inside_a_file_is_refused(checkpoint, tmp_path):
    loaded = load_pretrained(checkpoint)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"out: cannot be written \(.*Not a directory"):
        save_pretrained(loaded.model, tmp_path / "file" / "out", loaded.tokenizer)


def test_tokenizer_larger_than_the_model_is_not_saved(tokenizer, tmp_path):
    model = GPT(GPTConfig(n_layer=1, n_head=1, n_embd=4, vocab_size=399, n_positions=8))
    with pytest.raises(ValueError, match=r"400 .*vocab_size 399"):
        save_pretrained(model, tmp_path / "out", tokenizer)
    assert list(tmp_path.iterdir()) == []
