"""Checkpoints are Hugging Face folders: a model's architecture, weights, tokenizer and prompt template.

    config.json  model.safetensors  vocab.json  merges.txt  tokenizer.json  tokenizer_config.json
    generation_config.json, and a README.md which whoever saves the model may put there

`load_pretrained` reads one from a folder or from the hub, `save_pretrained` writes one that transformers reads too.
"""

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tiktoken
import torch
from safetensors import SafetensorError

from sft.atomic import read_json, replaced_folder, warn_of_latest
from sft.checkpoint import hub, weights
from sft.checkpoint.adapter import AdapterConfig, read_adapter, read_adapter_config, write_adapter
from sft.checkpoint.hub import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CHAT_TEMPLATE,
    CONFIG,
    INDEX,
    TOKENIZER_CONFIG,
    WEIGHTS,
)
from sft.config.schema import LoraConfig
from sft.errors import InputError
from sft.gpt2.lora import is_adapter
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.tokenizer import END, MERGES, TOKENIZER, VOCAB, load_tokenizer, save_tokenizer

EMBEDDED = {"gpt2-nano": Path(__file__).parent.parent / "miniature" / "gpt2-nano"}
GENERATION_CONFIG, CARD = "generation_config.json", "README.md"
WRITTEN = {CONFIG, WEIGHTS, VOCAB, MERGES, TOKENIZER, TOKENIZER_CONFIG, GENERATION_CONFIG, CARD}
WRITTEN |= {ADAPTER_CONFIG, ADAPTER_WEIGHTS}


@dataclass
class Pretrained:
    """A checkpoint in memory, and where it came from."""

    model: GPT
    tokenizer: tiktoken.Encoding
    prompt: str | None  # the template that it was tuned with, as text; None: the folder names none
    chat_template: str | None  # the same for programs that know only messages, as text
    base: str | None  # what it was tuned from, as its config.json or adapter_config.json says
    source: str  # the folder, or the hub's repository
    revision: str | None  # commit of the repository; None for a folder
    sha256: str  # of the weights' file; of several, of the lines "<sha256>  <name>"; of an adapter, with its base
    read: weights.Read = field(
        repr=False
    )  # a tensor from the files, by name, wherever the model is
    adapter: AdapterConfig | None = (
        None  # the folder was an adapter's, which is merged into the model
    )
    names: dict[str, str] = field(
        default_factory=dict
    )  # of special tokens, as the chat template calls them


def load_pretrained(
    repo_or_folder: str | Path,
    revision: str | None = None,
    dtype: torch.dtype = torch.float32,
    dropout: float = 0.0,
    device: str | torch.device = "cpu",
    linear_dtype: torch.dtype | None = None,
) -> Pretrained:
    """Load a GPT-2. An adapter comes merged into its base.

    Args:
        repo_or_folder: a folder, or that of a run, whose `model/` is taken; else `gpt2-nano`, the embedded model; else
            a repository of the hub (`owner/name`), or a released GPT-2 (`gpt2`, `gpt2-medium`, `gpt2-large`,
            `gpt2-xl`), which comes at a pinned commit.
        revision: the repository's branch, tag or commit.
        dtype: of the parameters, whatever the file's.
        dropout: the probability, for training; what config.json says is not used.
        linear_dtype: of the linear layers' matrices; None: `dtype`.

    Raises:
        InputError: the files cannot be had, are damaged, or are not a GPT-2's.
    """
    folder, source, revision = _locate(str(repo_or_folder), revision)
    tuned = _read_adapter_config(folder)
    home, base = _locate_base(tuned) if tuned else (folder, None)
    _check_files(home)
    raw = read_json(home / CONFIG)
    config = _read_config(home / CONFIG, raw, dropout)
    tokenizer = load_tokenizer(home)
    if tokenizer.n_vocab > config.vocab_size:
        path = home / (VOCAB if (home / VOCAB).exists() else TOKENIZER)
        raise InputError(
            f"{path}: {tokenizer.n_vocab} tokens, but {CONFIG} has vocab_size {config.vocab_size}"
        )
    files = weights.files(home)
    # An adapter's folder may say how it is asked; if it says nothing, its base does.
    own = (
        folder
        if any((folder / name).exists() for name in (TOKENIZER_CONFIG, CHAT_TEMPLATE))
        else home
    )
    told = _read_tokenizer_config(own)
    chat = _read_chat_template(own)
    with ThreadPoolExecutor(1) as aside:  # hashed while they are read
        sha256 = aside.submit(weights.sha256, files)
        adapter = read_adapter(tuned, config, sha256.result()) if tuned else None
        read = weights.reader(files, config, adapter.added if adapter else None)
        model = weights.load(config, read, dtype, torch.device(device), linear_dtype)
    return Pretrained(
        model=model,
        tokenizer=tokenizer,
        prompt=_text(told, "sft_prompt", home / TOKENIZER_CONFIG),
        chat_template=chat,
        base=base or _text(raw, "_name_or_path", home / CONFIG) or None,
        source=source,
        revision=revision,
        sha256=adapter.sha256 if adapter else sha256.result(),
        read=read,
        adapter=tuned,
        names=_special_names(told),
    )


def save_pretrained(
    model: GPT,
    folder: str | Path,
    tokenizer: tiktoken.Encoding,
    prompt: str | None = None,
    base: str | None = None,
    dtype: torch.dtype | None = None,
    chat_template: str | None = None,
    read: weights.Read | None = None,
    check: Callable[[Path], None] | None = None,
) -> None:
    """Write a folder that `load_pretrained`, and transformers' AutoModelForCausalLM and AutoTokenizer, load.

    The folder appears whole or not at all; a checkpoint that stood there is replaced, but for its README.md.

    Args:
        prompt: the template that the model was tuned with, as text.
        base: what it was tuned from.
        dtype: of the file; None: the model's.
        chat_template: the prompt as transformers' chat templates are.
        read: gives the model's tensors, by name, where the model is on the meta device and has none.
        check: is shown the new folder before that takes its place; if it raises, what stood there stays.

    Raises:
        InputError: the folder holds something else, or cannot be written.
        ValueError: the tokenizer has more tokens than the model, or the model has adapters.
    """
    if any(map(is_adapter, model.state_dict())):
        raise ValueError(
            "the model has adapters: save_adapter keeps them, and merge_adapter makes a model of them"
        )
    if tokenizer.n_vocab > model.config.vocab_size:
        raise ValueError(
            f"{tokenizer.n_vocab} tokens do not fit the model's vocab_size {model.config.vocab_size}"
        )
    dtype = dtype or model.wte.weight.dtype
    end = tokenizer.eot_token
    config = replace(model.config, eos_token_id=end).to_hf() | {
        "dtype": str(dtype).removeprefix("torch.")
    }
    with _written(folder) as beside:
        weights.save(model, beside / WEIGHTS, dtype, read)
        save_tokenizer(tokenizer, beside)
        _write_json(beside / CONFIG, config | ({"_name_or_path": base} if base else {}))
        _write_json(
            beside / TOKENIZER_CONFIG,
            _tokenizer_config(model.config.n_positions, prompt, chat_template),
        )
        _write_json(beside / GENERATION_CONFIG, {"bos_token_id": end, "eos_token_id": end})
        if check:
            check(beside)


def save_adapter(
    tuned: Pretrained,
    config: LoraConfig,
    folder: str | Path,
    prompt: str | None = None,
    chat_template: str | None = None,
) -> None:
    """Write the adapters that `add_lora` gave a loaded model, as a folder that `load_pretrained` and PEFT load.

    Args and errors are those of `save_pretrained`.
    """
    with _written(folder) as beside:
        write_adapter(tuned.model, config, beside, tuned.source, tuned.revision, tuned.sha256)
        save_tokenizer(tuned.tokenizer, beside)
        _write_json(
            beside / TOKENIZER_CONFIG,
            _tokenizer_config(tuned.model.config.n_positions, prompt, chat_template),
        )


def merge_adapter(adapter: str | Path, folder: str | Path) -> None:
    """Write an adapter's base with the adapter merged into it as a checkpoint of its own, in fp32, one tensor after the
    other.

    Raises:
        InputError: what `load_pretrained` and `save_pretrained` raise.
    """
    merged = load_pretrained(adapter, device="meta")
    arguments, chat = (merged.model, folder, merged.tokenizer), merged.chat_template
    save_pretrained(*arguments, merged.prompt, merged.base, chat_template=chat, read=merged.read)


def _tokenizer_config(
    context: int, prompt: str | None, chat_template: str | None
) -> dict[str, Any]:
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END)
    known = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": context,
        "add_prefix_space": False,
    }
    texts = {"sft_prompt": prompt, "chat_template": chat_template}
    return names | known | {key: text for key, text in texts.items() if text is not None}


# Reading


def _locate(name: str, revision: str | None) -> tuple[Path, str, str | None]:
    """The folder of a checkpoint, its source, and its commit."""
    folder = Path(os.path.expanduser(name))
    if name and folder.is_dir():
        warn_of_latest(folder)
        inner = folder / "model"
        if not _is_checkpoint(folder) and _is_checkpoint(
            inner
        ):  # a run; `latest` may be turned to another meanwhile
            return inner.resolve(), str(inner.resolve()), None
        return folder, name, None
    if name in EMBEDDED:
        return EMBEDDED[name], name, None
    if name and folder.exists():
        raise InputError(f"{name}: a file; expected the folder of a checkpoint")
    if name.startswith("outputs/"):
        raise InputError(
            f"{name}: not there; train first (python train.py), or name a run or a Hugging Face folder"
        )
    here = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
    if not name or here:
        raise InputError(f"{name or repr(name)}: no such folder (here: {Path.cwd()})")
    try:
        downloaded, commit = hub.download(name, revision)
    except InputError as error:
        if "/" in name and folder.parent.is_dir():
            raise InputError(
                f"{error}; and {folder.parent.absolute()} holds no {folder.name}"
            ) from error
        raise
    return downloaded, hub.SHORT.get(name, name), commit


def _is_checkpoint(folder: Path) -> bool:
    return (folder / CONFIG).exists() or (folder / ADAPTER_CONFIG).exists()


def _read_adapter_config(folder: Path) -> AdapterConfig | None:
    """None if the folder is no adapter's."""
    path = folder / ADAPTER_CONFIG
    return read_adapter_config(path, read_json(path)) if path.exists() else None


def _locate_base(adapter: AdapterConfig) -> tuple[Path, str]:
    """The folder and the source of what an adapter was trained beside."""
    try:
        folder, source, _ = _locate(adapter.base, adapter.revision)
    except InputError as error:
        raise InputError(f"{adapter.path}: base_model_name_or_path: {error}") from error
    if (folder / ADAPTER_CONFIG).exists():
        raise InputError(
            f"{adapter.path}: base_model_name_or_path: {adapter.base} is an adapter too; merge that first"
        )
    return folder, source


def _check_files(folder: Path) -> None:
    """Raises InputError if a file is missing that every checkpoint has."""
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    # transformers 5 writes tokenizer.json alone. Where one of the two older files is there, so must be the other.
    pair = () if TOKENIZER in there and not {VOCAB, MERGES} & set(there) else (VOCAB, MERGES)
    missing = [name for name in (CONFIG, *pair) if name not in there]
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


def _read_tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / TOKENIZER_CONFIG
    return read_json(path) if path.exists() else {}


def _special_names(found: dict[str, Any]) -> dict[str, str]:
    """Return the special tokens by the names that chat templates have for them, such as `eos_token`."""
    tokens = {
        name: found.get(name) for name in ("bos_token", "eos_token", "unk_token", "pad_token")
    }
    texts = {
        name: token.get("content") if isinstance(token, dict) else token
        for name, token in tokens.items()
    }
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _read_chat_template(folder: Path) -> str | None:
    """Return the folder's chat template, which transformers 5 writes as a file of its own, and earlier ones as a text
    in tokenizer_config.json, or as a list of texts with names. As in transformers, the file comes first."""
    path = folder / CHAT_TEMPLATE
    if path.exists():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as text ({error})") from error
    found = _read_tokenizer_config(folder)
    if isinstance(several := found.get("chat_template"), list):
        named = {one.get("name"): one.get("template") for one in several if isinstance(one, dict)}
        if "default" not in named:
            names = ", ".join(repr(name) for name in named) or "nothing"
            raise InputError(
                f"{folder / TOKENIZER_CONFIG}: chat_template: no template named 'default' among {names}"
            )
        found = {"chat_template": named["default"]}
    return _text(found, "chat_template", folder / TOKENIZER_CONFIG)


def _text(found: dict[str, Any], key: str, path: Path) -> str | None:
    value = found.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{path}: {key}: expected text, found {value!r}")
    return value


# Writing


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _written(folder: str | Path) -> Iterator[Path]:
    try:
        with replaced_folder(Path(folder), WRITTEN, kept=CARD) as beside:
            yield beside
    except SafetensorError as error:
        raise InputError(f"{folder}: cannot be written ({error})") from error
