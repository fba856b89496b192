"""OpenAI's original release of GPT-2 as a Hugging Face folder: `python -m sft.convert_openai --help`."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sft.atomic import read_json
from sft.errors import InputError
from sft.launch import command
from sft.network import unreachable
from sft.shell import setting

if TYPE_CHECKING:
    import tiktoken
    from torch import Tensor

    from sft.gpt2.model import GPT, GPTConfig

RELEASE = "https://openaipublic.blob.core.windows.net/gpt-2/models"
SIZES = ("124M", "355M", "774M", "1558M")
WEIGHTS = ("model.ckpt.data-00000-of-00001", "model.ckpt.index", "model.ckpt.meta")
FILES = ("checkpoint", "encoder.json", "hparams.json", "vocab.bpe", *WEIGHTS)
TOKENIZER = {
    "encoder.json": "vocab.json",
    "vocab.bpe": "merges.txt",
}  # and what Hugging Face calls them
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
        description="Turn a folder of OpenAI's original release (a TensorFlow checkpoint, hparams.json, encoder.json, "
        "vocab.bpe) into a Hugging Face folder. Needs TensorFlow: pip install .[openai]",
        epilog="example: python -m sft.convert_openai models/124M out/124M --download 124M",
    )
    made.add_argument(
        "release", type=Path, metavar="RELEASE", help="folder of the release, such as models/124M"
    )
    made.add_argument("out", type=Path, metavar="OUT", help="Hugging Face folder to be written")
    made.add_argument(
        "--download",
        choices=SIZES,
        help="fetch this size into RELEASE first, or what is missing of it",
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
        InputError: a file is missing, damaged, or not what the others make one expect; or `out` cannot be written.
    """
    from sft.checkpoint.folder import load_pretrained, save_pretrained
    from sft.checkpoint.verify import check_same, logits

    if missing := [name for name in FILES if not (release / name).is_file()]:
        raise InputError(
            f"{release}: no {', '.join(missing)}; expected OpenAI's release, or give --download SIZE"
        )
    tokenizer = read_tokenizer(release)
    model = read_model(release, read_config(release / "hparams.json"))
    tokens = tokenizer.encode_ordinary("Alan Turing theorized that computers would one day become")
    expected = logits(model, tokens)

    def check(written: Path) -> None:
        check_same(expected, logits(load_pretrained(written).model, tokens), "f32", out)

    save_pretrained(model, out, tokenizer, check=check)
    print(
        f"{out}: written and read back; python train.py {setting('model.checkpoint', out)} tunes it"
    )


def read_config(path: Path) -> GPTConfig:
    from sft.gpt2.model import GPTConfig

    hparams = read_json(path)
    try:
        return GPTConfig(**{ours: hparams[theirs] for theirs, ours in HPARAMS.items()})
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected JSON with {', '.join(HPARAMS)} ({error!r})") from error


def read_tokenizer(release: Path) -> tiktoken.Encoding:
    """The release's tokenizer, through a folder in which its files have the names that they have elsewhere."""
    from sft.gpt2.tokenizer import load_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        for theirs, ours in TOKENIZER.items():
            shutil.copy(release / theirs, Path(folder) / ours)
        try:
            return load_tokenizer(Path(folder))
        except InputError as error:
            told = str(error)
            for theirs, ours in TOKENIZER.items():
                told = told.replace(f"{folder}/{ours}", f"{release}/{theirs}")
            raise InputError(told) from error


def read_model(release: Path, config: GPTConfig) -> GPT:
    """The network with the release's weights.

    Raises:
        InputError: TensorFlow is not there or cannot read the checkpoint, or its variables are not the network's.
    """
    import torch

    from sft.gpt2.model import GPT

    with torch.device("meta"):
        model = GPT(config)
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
    state = {}
    for variable, name in expected.items():
        tensor, shape = (
            turned(torch.from_numpy(stored.pop(variable)).float()),
            model.get_parameter(name).shape,
        )
        if tensor.shape != shape:
            shapes = f"expected {tuple(shape)}, found {tuple(tensor.shape)}"
            raise InputError(f"{release}: variable {variable!r}, by hparams.json: {shapes}")
        state[name] = tensor.contiguous()
    model.load_state_dict(state, assign=True)
    return model


def read_variables(release: Path) -> dict[str, Any]:
    """The checkpoint's arrays by their names."""
    os.environ.setdefault(
        "TF_CPP_MIN_LOG_LEVEL", "3"
    )  # TensorFlow would tell of the machine it runs on
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
    """The release's name of one of our parameters: h.0.attn.c_attn.weight -> model/h0/attn/c_attn/w"""
    name = re.sub(r"^h\.(\d+)", r"h\1", name)
    if name in ("wte.weight", "wpe.weight"):
        return "model/" + name.removesuffix(".weight")
    module, _, kind = name.rpartition(".")
    scale = "g" if module.rpartition(".")[2].startswith("ln_") else "w"
    return f"model/{module.replace('.', '/')}/{'b' if kind == 'bias' else scale}"


def turned(values: Tensor) -> Tensor:
    """A linear layer's matrix is stored as a convolution of width 1, (1, in, out); ours is (out, in)."""
    return values[0].t() if values.dim() == 3 else values


# Downloading


def download(size: str, folder: Path, release: str = RELEASE) -> None:
    """Fetch what is missing of a size. What broke off is kept as `.part` and gone on with the next time.

    Raises:
        InputError: a file cannot be had, or not whole; or a tokenizer's file is not the one that is known.
    """
    from sft.atomic import make_folder

    make_folder(folder)
    for name in FILES:
        if not (folder / name).exists():
            fetch(f"{release}/{size}/{name}", folder / name)
    check_tokenizer(folder)


def fetch(url: str, path: Path, attempts: int = 3) -> None:
    """Fetch a file, going on where it broke off."""
    part = path.with_name(f"{path.name}.part")
    for attempt in range(1, attempts + 1):
        try:
            fetch_rest(url, part)
            os.replace(part, path)
            return
        except OSError as error:  # requests' errors are OSErrors too
            if attempt == attempts:
                reason = unreachable(error, url) or error
                raise InputError(
                    f"{url}: {reason}; the same command goes on where this one stopped"
                ) from error


def fetch_rest(url: str, part: Path) -> None:
    """Append to `part` what it lacks of the file.

    Raises:
        OSError: the server cannot be reached, refuses, or breaks off.
    """
    import requests
    from tqdm import tqdm

    have = part.stat().st_size if part.exists() else 0
    ask = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=ask, stream=True, timeout=30) as response:
        if response.status_code != 416:  # which says that there is no more
            response.raise_for_status()
            have = (
                have if response.status_code == 206 else 0
            )  # 200: from its beginning, whatever was asked
            size = int(response.headers.get("Content-Length", -1))
            bar = tqdm(total=have + size, initial=have, unit="B", unit_scale=True, desc=part.stem)
            with bar, part.open("ab" if have else "wb") as file:
                for chunk in response.iter_content(1 << 16):
                    bar.update(file.write(chunk))
                file.flush()
                os.fsync(file.fileno())
        _check_size(part, _size(response.headers))


def _size(headers: Mapping[str, str]) -> int:
    """Bytes of the whole file, of which a part may have been sent (RFC 9110, 14.4)."""
    told = headers.get("Content-Range", "").rpartition("/")[2] or headers.get("Content-Length", "")
    if not told.isdigit():
        raise OSError("the server does not tell the file's size")
    return int(told)


def _check_size(part: Path, expected: int) -> None:
    if (found := part.stat().st_size) > expected:
        part.unlink()
        raise OSError(f"expected {expected} bytes, found {found}, which were deleted")
    if found < expected:
        raise OSError(f"it broke off after {found} of {expected} bytes")


def check_tokenizer(folder: Path) -> None:
    """All sizes share one tokenizer, whose files are known by their hashes."""
    from sft.checkpoint.hub import SHA256, digest

    for theirs, ours in TOKENIZER.items():
        if (actual := digest(folder / theirs)) != (
            expected := SHA256["openai-community/gpt2", ours]
        ):
            raise InputError(
                f"{folder / theirs}: sha256 {actual}, expected {expected}; delete it and download again"
            )


if __name__ == "__main__":
    command(main)
