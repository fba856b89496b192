"""Convert OpenAI's release of GPT-2 to a Hugging Face folder, as `sft.convert` does too.

Run `python -m sft.convert_openai --help`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.atomic import read_json
from sft.command import command
from sft.errors import InputError
from sft.network import unreachable
from sft.shell import setting

if TYPE_CHECKING:
    import tiktoken

    from sft.gpt2.model import GPT, GPTConfig

RELEASE = "https://openaipublic.blob.core.windows.net/gpt-2/models"
SIZES = ("124M", "355M", "774M", "1558M")
WEIGHTS = ("model.ckpt.data-00000-of-00001", "model.ckpt.index", "model.ckpt.meta")
FILES = ("checkpoint", "encoder.json", "hparams.json", "vocab.bpe", *WEIGHTS)

# The release's names for the tokenizer's files, and Hugging Face's.
TOKENIZER = {
    "encoder.json": "vocab.json",
    "vocab.bpe": "merges.txt",
}

# The release's names in hparams.json, and those of GPTConfig.
HPARAMS = {
    "n_vocab": "vocab_size",
    "n_ctx": "n_positions",
    "n_embd": "n_embd",
    "n_head": "n_head",
    "n_layer": "n_layer",
}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m sft.convert_openai",
        description="Turn a folder of OpenAI's original release (a TensorFlow checkpoint, "
        "hparams.json, encoder.json, vocab.bpe) into a Hugging Face folder. Needs TensorFlow: "
        "pip install .[openai]",
        epilog="example: python -m sft.convert_openai models/124M out/124M --download 124M",
    )
    made.add_argument(
        "release", type=Path, metavar="RELEASE", help="folder of the release, such as models/124M"
    )
    made.add_argument("out", type=Path, metavar="OUT", help="Hugging Face folder to be written")
    made.add_argument(
        "--download",
        choices=SIZES,
        help="first fetch this size, or its missing files, into RELEASE",
    )
    return made


def main() -> None:
    """Fetch, convert."""
    given = parser().parse_args()
    if given.download:
        download(given.download, given.release)
    convert(given.release, given.out)


# Converting


def convert(release: Path, out: Path) -> None:
    """Write a release as a Hugging Face folder, and read it back.

    Raises:
        InputError: a file is missing, damaged, or does not fit the others; or `out` cannot be
            written.
    """
    from sft.checkpoint.verify import save_verified

    if missing := [name for name in FILES if not (release / name).is_file()]:
        raise InputError(
            f"{release}: no {', '.join(missing)}; expected OpenAI's release, or give "
            "--download SIZE"
        )
    tokenizer = read_tokenizer(release)
    model = read_model(release, read_config(release / "hparams.json"))
    save_verified(model, out, tokenizer)
    print(
        f"{out}: written and read back; python train.py {setting('model.checkpoint', out)} tunes it"
    )


def read_config(path: Path) -> GPTConfig:
    """Return the architecture that `hparams.json` gives."""
    from sft.gpt2.model import GPTConfig

    hparams = read_json(path)
    try:
        return GPTConfig(**{ours: hparams[theirs] for theirs, ours in HPARAMS.items()})
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected JSON with {', '.join(HPARAMS)} ({error!r})") from error


def read_tokenizer(release: Path) -> tiktoken.Encoding:
    """Return the release's tokenizer.

    It is loaded from a temporary folder in which its files have Hugging Face's names. Errors name
    the release's files.
    """
    from sft.gpt2.tokenizer import load_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        for theirs, ours in TOKENIZER.items():
            shutil.copy(release / theirs, Path(folder) / ours)
        try:
            return load_tokenizer(Path(folder))
        except InputError as error:
            message = str(error)
            for theirs, ours in TOKENIZER.items():
                message = message.replace(str(Path(folder) / ours), str(release / theirs))
            raise InputError(message) from error


def read_model(release: Path, config: GPTConfig) -> GPT:
    """Return the network with the release's weights.

    Raises:
        InputError: TensorFlow is not installed or cannot read the checkpoint, or its variables are
            not the network's.
    """
    import torch

    from sft.checkpoint.weights import skeleton

    model = skeleton(config)
    expected = {variable_of(name): name for name in model.state_dict()}
    stored = read_variables(release)
    if missing := sorted(expected.keys() - stored.keys()):
        raise InputError(
            f"{release}: the checkpoint has no variable {missing[0]!r}, which hparams.json asks for"
        )
    if extra := sorted(stored.keys() - expected.keys()):
        raise InputError(
            f"{release}: variable {extra[0]!r} of the checkpoint is not part of a GPT-2"
        )

    # A linear layer's matrix is stored as a convolution of width 1, (1, in, out). Ours is
    # (out, in).
    state = {}
    for variable, name in expected.items():
        shape = model.get_parameter(name).shape
        tensor = torch.from_numpy(stored.pop(variable)).float()
        if tensor.dim() == 3:
            tensor = tensor[0].t()
        if tensor.shape != shape:
            shapes = f"expected {tuple(shape)}, found {tuple(tensor.shape)}"
            raise InputError(f"{release}: variable {variable!r}, by hparams.json: {shapes}")
        state[name] = tensor.contiguous()
    model.load_state_dict(state, assign=True)
    return model


def read_variables(release: Path) -> dict[str, Any]:
    """Return the checkpoint's arrays by name."""
    # Without this TensorFlow logs lines about the machine that it runs on.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow
    except ImportError as error:
        raise InputError(
            "TensorFlow, which reads the release, is not installed: pip install .[openai]"
        ) from error
    try:
        reader = tensorflow.train.load_checkpoint(str(release / "model.ckpt"))
        return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}
    except (tensorflow.errors.OpError, IndexError, ValueError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(
            f"{release}/model.ckpt: TensorFlow cannot read it ({reason}); get the files again"
        ) from error


def variable_of(name: str) -> str:
    """Return the release's name for one of our parameters.

    h.0.attn.c_attn.weight -> model/h0/attn/c_attn/w
    """
    name = re.sub(r"^h\.(\d+)", r"h\1", name)
    if name in ("wte.weight", "wpe.weight"):
        return "model/" + name.removesuffix(".weight")
    module, _, kind = name.rpartition(".")
    if kind == "bias":
        letter = "b"
    elif module.rpartition(".")[2].startswith("ln_"):
        letter = "g"
    else:
        letter = "w"
    return f"model/{module.replace('.', '/')}/{letter}"


# Downloading


def download(size: str, folder: Path, release: str = RELEASE) -> None:
    """Fetch the missing files of a size. A partial file is kept as `.part` and continued later.

    Raises:
        InputError: a file cannot be fetched whole, or a tokenizer file has the wrong hash.
    """
    from sft.atomic import make_folder

    make_folder(folder)
    for name in FILES:
        if not (folder / name).exists():
            fetch(f"{release}/{size}/{name}", folder / name)
    check_tokenizer(folder)


def fetch(url: str, path: Path, attempts: int = 3) -> None:
    """Fetch a file, and continue where the connection broke off."""
    from sft.download import fetch_rest

    part = path.with_name(f"{path.name}.part")
    for attempt in range(1, attempts + 1):
        try:
            # Without the size a short file would be taken for a whole one.
            if fetch_rest(url, part, path.name) is None:
                raise OSError("the server does not tell the file's size")
            os.replace(part, path)
            return
        except (OSError, ValueError) as error:
            if attempt == attempts:
                reason = unreachable(error, url) or error
                raise InputError(
                    f"{url}: {reason}; the same command goes on where this one stopped"
                ) from error


def check_tokenizer(folder: Path) -> None:
    """Check the tokenizer's files, which are the same for all sizes, by their known hashes."""
    from sft.atomic import sha256_of
    from sft.checkpoint.hub import SHA256

    for theirs, ours in TOKENIZER.items():
        path = folder / theirs
        actual = sha256_of(path)
        expected = SHA256["openai-community/gpt2", ours]
        if actual != expected:
            raise InputError(
                f"{path}: sha256 {actual}, expected {expected}; delete it and download again"
            )


if __name__ == "__main__":
    command(main)
