"""Checkpoints are Hugging Face folders: a model's architecture, weights, tokenizer and prompt template.

    config.json  model.safetensors  vocab.json  merges.txt  tokenizer.json  tokenizer_config.json
    generation_config.json, and a README.md which whoever saves the model may put there

`load_pretrained` reads one from a folder or from the hub, `save_pretrained` writes one that transformers reads too.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import tiktoken
import torch
from safetensors import SafetensorError

from sft.config import InputError
from sft.gpt2 import hub, weights
from sft.gpt2.hub import CONFIG, INDEX, MERGES, TOKENIZER_CONFIG, VOCAB, WEIGHTS
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.tokenizer import END, load_tokenizer, save_tokenizer

EMBEDDED = {"gpt2-nano": Path(__file__).parent.parent / "assets" / "gpt2-nano"}
GENERATION_CONFIG, TOKENIZER, CARD = "generation_config.json", "tokenizer.json", "README.md"
WRITTEN = {CONFIG, WEIGHTS, VOCAB, MERGES, TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG, CARD}


@dataclass
class Pretrained:
    """A checkpoint in memory, and where it came from."""

    model: GPT
    tokenizer: tiktoken.Encoding
    prompt: str | None  # the template that it was tuned with, as text; None: the folder names none
    chat_template: str | None  # the same for programs that know only messages, as text
    base: str | None  # what it was tuned from, as its config.json says
    source: str  # the folder, or the hub's repository
    revision: str | None  # commit of the repository; None for a folder
    sha256: str  # of the weights' file; of several, of the lines "<sha256>  <name>"


def load_pretrained(
    repo_or_folder: str | Path,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    dropout: float = 0.0,
    device: str | torch.device = "cpu",
) -> Pretrained:
    """Load a GPT-2.

    Args:
        repo_or_folder: a folder; else `gpt2-nano`, the embedded model; else a repository of the hub (`owner/name`), or
            a released GPT-2 (`gpt2`, `gpt2-medium`, `gpt2-large`, `gpt2-xl`), which comes at a pinned commit.
        revision: the repository's branch, tag or commit.
        dtype: of the parameters, whatever the file's.
        dropout: the probability, for training; what config.json says is not used.

    Raises:
        InputError: the files cannot be had, are damaged, or are not a GPT-2's.
    """
    folder, source, revision = _locate(str(repo_or_folder), revision)
    _check_files(folder)
    raw = _read_json(folder / CONFIG)
    config = _read_config(folder / CONFIG, raw, dropout)
    tokenizer = load_tokenizer(folder)
    if tokenizer.n_vocab > config.vocab_size:
        raise InputError(
            f"{folder / VOCAB}: {tokenizer.n_vocab} tokens, but {CONFIG} has vocab_size {config.vocab_size}"
        )
    tokenizer_config = _read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).exists() else {}
    files = weights.files(folder)
    return Pretrained(
        model=weights.load(files, config, dtype, torch.device(device)),
        tokenizer=tokenizer,
        prompt=_text(tokenizer_config, "sft_prompt", folder / TOKENIZER_CONFIG),
        chat_template=_text(tokenizer_config, "chat_template", folder / TOKENIZER_CONFIG),
        base=_text(raw, "_name_or_path", folder / CONFIG) or None,
        source=source,
        revision=revision,
        sha256=weights.sha256(files),
    )


def save_pretrained(
    model: GPT,
    folder: str | Path,
    tokenizer: tiktoken.Encoding,
    prompt: str | None = None,
    base: str | None = None,
    dtype: torch.dtype | None = None,
    chat_template: str | None = None,
) -> None:
    """Write a folder that `load_pretrained`, and transformers' AutoModelForCausalLM and AutoTokenizer, load.

    The folder appears whole or not at all; a checkpoint that stood there is replaced, but for its README.md.

    Args:
        prompt: the template that the model was tuned with, as text.
        base: what it was tuned from.
        dtype: of the file; None: the model's.
        chat_template: the prompt as transformers' chat templates are.

    Raises:
        InputError: the folder holds something else, or cannot be written.
        ValueError: the tokenizer has more tokens than the model.
    """
    if tokenizer.n_vocab > model.config.vocab_size:
        raise ValueError(f"{tokenizer.n_vocab} tokens do not fit the model's vocab_size {model.config.vocab_size}")
    dtype = dtype or model.wte.weight.dtype
    end = tokenizer.eot_token
    config = replace(model.config, eos_token_id=end).to_hf() | {"dtype": str(dtype).removeprefix("torch.")}
    with _written_beside(Path(folder)) as beside:
        weights.save(model, beside / WEIGHTS, dtype)
        save_tokenizer(tokenizer, beside)
        _write_json(beside / CONFIG, config | ({"_name_or_path": base} if base else {}))
        _write_json(beside / TOKENIZER_CONFIG, _tokenizer_config(model.config.n_positions, prompt, chat_template))
        _write_json(beside / GENERATION_CONFIG, {"bos_token_id": end, "eos_token_id": end})
        shutil.copymode(beside / CONFIG, beside / WEIGHTS)  # safetensors lets only the owner read it


def _tokenizer_config(context: int, prompt: str | None, chat_template: str | None) -> dict[str, Any]:
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END)
    known = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": context, "add_prefix_space": False}
    texts = {"sft_prompt": prompt, "chat_template": chat_template}
    return names | known | {key: text for key, text in texts.items() if text is not None}


# Reading


def _locate(name: str, revision: str | None) -> tuple[Path, str, str | None]:
    """The folder of a checkpoint, its source, and its commit."""
    folder = Path(os.path.expanduser(name))
    if name and folder.is_dir():
        return folder, name, None
    if name in EMBEDDED:
        return EMBEDDED[name], name, None
    if name and folder.exists():
        raise InputError(f"{name}: a file; expected the folder of a checkpoint")
    if not name or name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise InputError(f"{name or repr(name)}: no such folder (here: {Path.cwd()})")
    folder, commit = hub.download(name, revision)
    return folder, hub.SHORT.get(name, name), commit


def _check_files(folder: Path) -> None:
    """Raises InputError if a file is missing that every checkpoint has."""
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    missing = [name for name in (CONFIG, VOCAB, MERGES) if name not in there]
    if not {WEIGHTS, INDEX} & set(there):
        missing.append(WEIGHTS)
    if WEIGHTS in missing and any(name.endswith((".bin", ".pt", ".pth")) for name in there):
        raise InputError(
            f"{folder}: no {WEIGHTS}; pickled weights are not loaded, since they can run code: convert them with "
            f"transformers: GPT2LMHeadModel.from_pretrained(folder).save_pretrained(folder)"
        )
    if missing:
        found = ", ".join(there[:8]) or "nothing"
        raise InputError(
            f"{folder}: no {', '.join(missing)}; expected a checkpoint in Hugging Face format, found {found}"
        )


def _read_config(path: Path, raw: dict[str, Any], dropout: float) -> GPTConfig:
    try:
        return GPTConfig.from_hf(raw, dropout)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found


def _text(found: dict[str, Any], key: str, path: Path) -> str | None:
    value = found.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{path}: {key}: expected text, found {value!r}")
    return value


# Writing


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _written_beside(folder: Path) -> Iterator[Path]:
    """A new folder to write into, which takes the place of `folder` at the end, or vanishes if something fails."""
    folder = folder.expanduser().resolve()
    beside = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}")
    try:
        _check_replaceable(folder)
        beside.mkdir(parents=True)
        yield beside
        if (folder / CARD).exists():
            shutil.copy(folder / CARD, beside / CARD)
        for path in beside.iterdir():
            _fsync(path)
        _replace(folder, beside)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{folder}: cannot be written ({error})") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _check_replaceable(folder: Path) -> None:
    """Raises InputError unless `folder` is absent, empty, or a checkpoint with nothing else in it."""
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected a folder for the checkpoint")
    other = sorted({path.name for path in folder.iterdir()} - WRITTEN) if folder.exists() else []
    if other:
        raise InputError(
            f"{folder}: holds other files ({', '.join(other[:4])}), which would be lost; give a new folder"
        )


def _replace(folder: Path, beside: Path) -> None:
    """Put `beside` in the place of `folder`. A folder cannot be renamed onto another: the old one steps aside."""
    aside = folder.with_name(f"{beside.name}.old")
    if folder.exists():
        folder.rename(aside)
    try:
        beside.rename(folder)
    except OSError:
        if aside.exists():
            aside.rename(folder)
        raise
    _fsync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _fsync(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk and not only in memory."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
