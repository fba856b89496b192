"""Conversion of a checkpoint of TensorFlow: `make test-openai`, since TensorFlow is large."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tensorflow as tf
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from sft.checkpoint.folder import load_pretrained
from sft.convert_openai import FILES, convert
from sft.errors import InputError
from tests.conftest import train_bpe

v1 = tf.compat.v1
IDS = torch.arange(60).view(2, 30)


@pytest.fixture(scope="module")
def theirs() -> GPT2LMHeadModel:
    """A random model of transformers, in which no two tensors are alike."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=11, n_head=2, n_embd=16, vocab_size=400, n_positions=64)
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def variables(model: GPT2LMHeadModel) -> dict[str, torch.Tensor]:
    """Return the names and shapes of openai/gpt-2's src/model.py (`conv1d`, `norm`)."""
    found = {}
    for name, tensor in model.transformer.state_dict().items():
        scope = re.sub(r"^h\.(\d+)\.", r"h\1.", name).replace(".", "/")
        if scope in ("wte/weight", "wpe/weight"):
            found[f"model/{scope[:3]}"] = tensor
        elif "ln_" in scope:
            found["model/" + scope.replace("weight", "g").replace("bias", "b")] = tensor
        else:
            kernel = tensor[None] if tensor.dim() == 2 else tensor  # (1, in, out)
            found["model/" + re.sub("weight$", "w", scope).replace("/bias", "/b")] = kernel
    return found


@pytest.fixture
def release(theirs: GPT2LMHeadModel, tmp_path: Path) -> Callable[..., Path]:
    """Writes a release, whose variables `change` may change."""

    def write(change: Callable[[dict], dict] = lambda found: found) -> Path:
        folder = tmp_path / "tiny"
        folder.mkdir()
        with tf.Graph().as_default(), v1.Session() as session:
            for name, values in change(variables(theirs)).items():
                v1.get_variable(name, initializer=values.numpy())
            session.run(v1.global_variables_initializer())
            v1.train.Saver().save(session, str(folder / "model.ckpt"))
        hparams = {"n_vocab": 400, "n_ctx": 64, "n_embd": 16, "n_head": 2, "n_layer": 11}
        (folder / "hparams.json").write_text(json.dumps(hparams))
        bpe = tmp_path / "bpe"
        bpe.mkdir()
        train_bpe(bpe)
        shutil.copy(bpe / "vocab.json", folder / "encoder.json")
        shutil.copy(bpe / "merges.txt", folder / "vocab.bpe")
        assert {path.name for path in folder.iterdir()} == set(FILES)
        return folder

    return write


@torch.no_grad()
def test_converted_model_gives_transformers_logits(release, theirs, tmp_path):
    convert(release(), tmp_path / "out")
    ours = load_pretrained(tmp_path / "out").model
    torch.testing.assert_close(ours(IDS), theirs(IDS).logits, atol=1e-5, rtol=0)
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(again(IDS).logits, theirs(IDS).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda found: {k: v for k, v in found.items() if k != "model/h3/ln_2/g"},
            "has no variable 'model/h3/ln_2/g'",
        ),
        (
            lambda found: found | {"model/wpe": torch.ones(32, 16)},
            r"expected \(64, 16\), found \(32, 16\)",
        ),
        (
            lambda found: found | {"model/x": torch.ones(1)},
            "variable 'model/x' of the checkpoint is not part",
        ),
    ],
)
def test_variables_that_do_not_fit_are_refused(release, tmp_path, change, message):
    with pytest.raises(InputError, match=message):
        convert(release(change), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["model.ckpt.index", "model.ckpt.data-00000-of-00001"])
def test_damaged_checkpoint_is_refused(release, tmp_path, name):
    folder = release()
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    with pytest.raises(InputError, match="TensorFlow cannot read it"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
