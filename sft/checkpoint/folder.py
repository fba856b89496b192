"""Read and write a checkpoint, which is a Hugging Face folder.

    config.json  model.safetensors  vocab.json  merges.txt  tokenizer.json  tokenizer_config.json
    generation_config.json, and a README.md, which whoever saves the model may add

It holds a model's architecture, weights, tokenizer and prompt template. `load_pretrained` reads one
from a folder or from the hub. `save_pretrained` writes one that transformers reads too.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tiktoken
import torch
from safetensors import SafetensorError

from sft.atomic import read_json, replaced_folder
from sft.checkpoint import hub, weights
from sft.checkpoint.adapter import AdapterConfig, read_adapter, read_adapter_config, write_adapter
from sft.checkpoint.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    CARD,
    CHAT_TEMPLATE,
    CONFIG,
    GENERATION_CONFIG,
    INDEX,
    TOKENIZER_CONFIG,
    WEIGHTS,
    write_config,
)
from sft.config.schema import LoraConfig
from sft.errors import InputError
from sft.gpt2.lora import is_adapter
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.tokenizer import END, MERGES, TOKENIZER, VOCAB, load_tokenizer, save_tokenizer
from sft.latest import followed, warn_of_latest

# The models that come with this package, by name.
EMBEDDED = {"gpt2-nano": Path(__file__).parent.parent / "miniature" / "gpt2-nano"}

# A folder with other files than these is not overwritten.
WRITTEN = {
    CONFIG,
    WEIGHTS,
    VOCAB,
    MERGES,
    TOKENIZER,
    TOKENIZER_CONFIG,
    GENERATION_CONFIG,
    CARD,
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
}


@dataclass
class Pretrained:
    """A checkpoint in memory, and where it came from.

    Attributes:
        prompt: text of the template that the model was tuned with; None: the folder has none.
        chat_template: the same for programs that only know messages.
        base: the model that it was tuned from, by its config.json or adapter_config.json.
        source: the folder, or the hub's repository.
        revision: commit of the repository; None for a folder.
        sha256: hash of the weights' file. For several files, of the lines "<sha256>  <name>". For
            an adapter, of it and its base.
        read: gives a tensor of the files by name, whatever device the model is on.
        adapter: config of the adapter that was merged into the model; None: the folder is not an
            adapter's.
        names: special tokens, by the names that chat templates use for them.
        ends: special tokens, as text, that end its answers besides the tokenizer's end token, such
            as another program's `<|im_end|>`.
        conversations: it was tuned on conversations of several turns.
        lora: the settings of the adapters that `finetune` gave the model. Its other weights are the
            file's.
    """

    model: GPT
    tokenizer: tiktoken.Encoding
    prompt: str | None
    chat_template: str | None
    base: str | None
    source: str
    revision: str | None
    sha256: str
    read: weights.Read = field(repr=False)
    adapter: AdapterConfig | None = None
    names: dict[str, str] = field(default_factory=dict)
    ends: tuple[str, ...] = ()
    conversations: bool = False
    lora: LoraConfig | None = None


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
        repo_or_folder: a folder, or a run, whose `model/` is taken. Otherwise `gpt2-nano`, the
            embedded model. Otherwise a repository of the hub (`owner/name`), or a released GPT-2
            (`gpt2`, `gpt2-medium`, `gpt2-large`, `gpt2-xl`) at a pinned commit.
        revision: the repository's branch, tag or commit.
        dtype: type of the parameters, whatever the file's.
        dropout: the probability, for training. The one in config.json is not used.
        linear_dtype: type of the linear layers' matrices; None: `dtype`.

    Raises:
        InputError: the files are missing, damaged, or not a GPT-2's.
    """
    folder, source, revision = _locate(str(repo_or_folder), revision)

    # An adapter's architecture, tokenizer and weights are in the folder of its base.
    tuned = None
    base = None
    home = folder
    path = folder / ADAPTER_CONFIG
    if path.exists():
        tuned = read_adapter_config(path, read_json(path))
        home, base = _locate_base(tuned)
    _check_files(home)

    raw = read_json(home / CONFIG)
    try:
        config = GPTConfig.from_hf(raw, dropout)
    except ValueError as error:
        raise InputError(f"{home / CONFIG}: {error}") from error
    tokenizer = _load_tokenizer_of(config, home)

    # The templates are an adapter's own, if its folder has any, or else its base's.
    has_templates = (folder / TOKENIZER_CONFIG).exists() or (folder / CHAT_TEMPLATE).exists()
    templates = folder if has_templates else home
    tokenizer_config = _read_tokenizer_config(templates)
    chat_template = _read_chat_template(templates)

    # A thread hashes the files while they are read.
    files = weights.files(home)
    with ThreadPoolExecutor(1) as thread:
        sha256 = thread.submit(weights.sha256, files)
        adapter = read_adapter(tuned, config, sha256.result()) if tuned else None
        read = weights.reader(files, config, adapter.added if adapter else None)
        model = weights.load(config, read, dtype, torch.device(device), linear_dtype)
    return Pretrained(
        model=model,
        tokenizer=tokenizer,
        prompt=_text(tokenizer_config, "sft_prompt", templates / TOKENIZER_CONFIG),
        chat_template=chat_template,
        base=base or _text(raw, "_name_or_path", home / CONFIG) or None,
        source=source,
        revision=revision,
        sha256=adapter.sha256 if adapter else sha256.result(),
        read=read,
        adapter=tuned,
        names=_special_names(tokenizer_config),
        ends=_read_ends(templates, tokenizer_config, tokenizer),
        conversations=tokenizer_config.get("sft_conversations") is True,
    )


def _load_tokenizer_of(config: GPTConfig, home: Path) -> tiktoken.Encoding:
    """Load the tokenizer in `home`. It must not have more tokens than the model has embeddings."""
    tokenizer = load_tokenizer(home)
    if tokenizer.n_vocab > config.vocab_size:
        path = home / (VOCAB if (home / VOCAB).exists() else TOKENIZER)
        raise InputError(
            f"{path}: {tokenizer.n_vocab} tokens, but {CONFIG} has vocab_size "
            f"{config.vocab_size}; they belong to different models, so get both from one"
        )
    return tokenizer


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
    conversations: bool = False,
    ends: Sequence[str] = (),
) -> None:
    """Write a folder for `load_pretrained` and for transformers' AutoModel and AutoTokenizer.

    The folder appears whole or not at all. A checkpoint that is already there is replaced, except
    for its README.md.

    Args:
        prompt: text of the template that the model was tuned with.
        base: the model that it was tuned from.
        dtype: type of the weights in the file; None: the model's.
        chat_template: the same prompt as a chat template of transformers.
        read: gives the tensors, by name, of a model on the meta device, which has none.
        check: is called with the new folder before that takes its place. If it raises, the old
            folder stays.
        conversations: it was tuned on conversations of several turns.
        ends: special tokens, as in `Pretrained`.

    Raises:
        InputError: the folder holds something else, or cannot be written.
        ValueError: the tokenizer has more tokens than the model, or the model has adapters.
    """
    if any(map(is_adapter, model.state_dict())):
        raise ValueError(
            "the model has adapters: write them with save_adapter, then merge with merge_adapter"
        )
    size = model.config.vocab_size
    if tokenizer.n_vocab > size:
        raise ValueError(f"{tokenizer.n_vocab} tokens do not fit the model's vocab_size {size}")

    dtype = dtype or model.wte.weight.dtype
    end = tokenizer.eot_token
    config = replace(model.config, eos_token_id=end).to_hf()
    config["dtype"] = str(dtype).removeprefix("torch.")
    if base:
        config["_name_or_path"] = base
    context = model.config.n_positions
    tokenizer_config = _tokenizer_config(context, prompt, chat_template, conversations)

    with _written(folder) as temporary:
        weights.save(model, temporary / WEIGHTS, dtype, read)
        save_tokenizer(tokenizer, temporary)
        write_config(temporary / CONFIG, config)
        write_config(temporary / TOKENIZER_CONFIG, tokenizer_config)
        write_config(temporary / GENERATION_CONFIG, _generation_config(tokenizer, ends))
        if check:
            check(temporary)


def save_adapter(
    tuned: Pretrained,
    config: LoraConfig,
    folder: str | Path,
    prompt: str | None = None,
    chat_template: str | None = None,
    conversations: bool = False,
) -> None:
    """Write the adapters that `add_lora` gave a loaded model.

    The folder is one that `load_pretrained` and PEFT load. Arguments and errors are those of
    `save_pretrained`.
    """
    context = tuned.model.config.n_positions
    tokenizer_config = _tokenizer_config(context, prompt, chat_template, conversations)
    with _written(folder) as temporary:
        write_adapter(tuned.model, config, temporary, tuned.source, tuned.revision, tuned.sha256)
        save_tokenizer(tuned.tokenizer, temporary)
        write_config(temporary / TOKENIZER_CONFIG, tokenizer_config)
        if tuned.ends:
            generation_config = _generation_config(tuned.tokenizer, tuned.ends)
            write_config(temporary / GENERATION_CONFIG, generation_config)


def merge_adapter(adapter: str | Path, folder: str | Path) -> None:
    """Write an adapter merged into its base as a checkpoint of its own, in fp32.

    One tensor is in memory at a time.

    Raises:
        InputError: as `load_pretrained` and `save_pretrained`.
    """
    merged = load_pretrained(adapter, device="meta")
    save_pretrained(
        merged.model,
        folder,
        merged.tokenizer,
        merged.prompt,
        merged.base,
        chat_template=merged.chat_template,
        read=merged.read,
        conversations=merged.conversations,
        ends=merged.ends,
    )


# Reading


def _locate(name: str, revision: str | None) -> tuple[Path, str, str | None]:
    """Return the folder of a checkpoint, its source, and its commit."""
    # The user's own folder. `outputs/latest` may meanwhile be turned to another run, so the path
    # inside a run is resolved.
    folder = followed(name)
    if name and folder.is_dir():
        warn_of_latest(folder)
        inner = folder / "model"
        if not _is_checkpoint(folder) and _is_checkpoint(inner):
            return inner.resolve(), str(inner.resolve()), None
        return folder, str(folder) if folder != Path(name).expanduser() else name, None
    if name in EMBEDDED:
        return EMBEDDED[name], name, None

    # A path that leads nowhere is not looked for on the hub.
    if name and folder.exists():
        raise InputError(f"{name}: a file; expected the folder of a checkpoint")
    if name.startswith("outputs/"):
        raise InputError(
            f"{name}: not there; train first (python train.py), or name a run or a Hugging Face "
            "folder"
        )
    is_path = name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name
    if not name or is_path:
        raise InputError(f"{name or repr(name)}: no such folder (here: {Path.cwd()})")

    try:
        downloaded, commit = hub.download(name, revision)
    except InputError as error:
        # `data/model` may be a repository, or a folder that was mistyped.
        if "/" in name and folder.parent.is_dir():
            raise InputError(
                f"{error}; and {folder.parent.absolute()} holds no {folder.name}"
            ) from error
        raise
    return downloaded, hub.SHORT.get(name, name), commit


def _is_checkpoint(folder: Path) -> bool:
    return (folder / CONFIG).exists() or (folder / ADAPTER_CONFIG).exists()


def _locate_base(adapter: AdapterConfig) -> tuple[Path, str]:
    """Return the folder and the source of the model that an adapter was trained on."""
    where = f"{adapter.path}: base_model_name_or_path"
    try:
        folder, source, _ = _locate(adapter.base, adapter.revision)
    except InputError as error:
        raise InputError(f"{where}: {error}") from error
    if (folder / ADAPTER_CONFIG).exists():
        raise InputError(f"{where}: {adapter.base} is an adapter too; merge that first")
    return folder, source


def _check_files(folder: Path) -> None:
    """Raise InputError if a file is missing that every checkpoint has."""
    found = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    # transformers 5 writes tokenizer.json alone. Each of the two older files needs the other.
    needed = [CONFIG]
    if TOKENIZER not in found or VOCAB in found or MERGES in found:
        needed += [VOCAB, MERGES]
    missing = [name for name in needed if name not in found]
    if WEIGHTS not in found and INDEX not in found:
        missing.append(WEIGHTS)
        if any(name.endswith((".bin", ".pt", ".pth")) for name in found):
            raise InputError(
                f"{folder}: no {WEIGHTS}; pickled weights are not loaded, since they can run code: "
                "convert them with transformers: "
                "GPT2LMHeadModel.from_pretrained(folder).save_pretrained(folder)"
            )
    if missing:
        raise InputError(
            f"{folder}: no {', '.join(missing)}; expected a checkpoint in Hugging Face format, "
            f"found {', '.join(found[:8]) or 'nothing'}"
        )


def _read_tokenizer_config(folder: Path) -> dict[str, Any]:
    path = folder / TOKENIZER_CONFIG
    return read_json(path) if path.exists() else {}


def _special_names(tokenizer_config: dict[str, Any]) -> dict[str, str]:
    """Return special tokens by the names that chat templates use, such as `eos_token`."""
    found = {}
    for name in ("bos_token", "eos_token", "unk_token", "pad_token"):
        token = tokenizer_config.get(name)
        text = token.get("content") if isinstance(token, dict) else token
        if isinstance(text, str):
            found[name] = text
    return found


def _read_ends(
    folder: Path, tokenizer_config: dict[str, Any], tokenizer: tiktoken.Encoding
) -> tuple[str, ...]:
    """Return the texts of the special tokens, besides END, that the folder's files say end a turn.

    As in transformers, `eos_token_id` of generation_config.json is one id or a list of them.
    """
    path = folder / GENERATION_CONFIG
    ids = read_json(path).get("eos_token_id") if path.exists() else None
    found = {_special_names(tokenizer_config).get("eos_token")}
    for id in ids if isinstance(ids, list) else [ids]:
        if isinstance(id, int) and 0 <= id < tokenizer.n_vocab:
            found.add(tokenizer.decode([id]))
    return tuple(sorted(tokenizer.special_tokens_set.intersection(found) - {END}))


def _read_chat_template(folder: Path) -> str | None:
    """Return the folder's chat template.

    transformers 5 writes it as a file of its own. Earlier versions write it into
    tokenizer_config.json, as a text or as a list of named texts. As in transformers, the file comes
    first.
    """
    path = folder / CHAT_TEMPLATE
    if path.exists():
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read as text ({error})") from error

    path = folder / TOKENIZER_CONFIG
    found = _read_tokenizer_config(folder)
    templates = found.get("chat_template")
    if isinstance(templates, list):
        named = {one.get("name"): one.get("template") for one in templates if isinstance(one, dict)}
        if "default" not in named:
            names = ", ".join(repr(name) for name in named) or "nothing"
            raise InputError(f"{path}: chat_template: no template named 'default' among {names}")
        found = {"chat_template": named["default"]}
    return _text(found, "chat_template", path)


def _text(found: dict[str, Any], key: str, path: Path) -> str | None:
    value = found.get(key)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{path}: {key}: expected text, found {value!r}")
    return value


# Writing


def _generation_config(tokenizer: tiktoken.Encoding, ends: Sequence[str]) -> dict[str, Any]:
    """Return generation_config.json, which names the tokens that end an answer."""
    end = tokenizer.eot_token
    every_end = [end, *map(tokenizer.encode_single_token, ends)]
    return {
        "bos_token_id": end,
        "eos_token_id": every_end if ends else end,
        "pad_token_id": end,
    }


def _tokenizer_config(
    context: int, prompt: str | None, chat_template: str | None, conversations: bool
) -> dict[str, Any]:
    content: dict[str, Any] = {
        "bos_token": END,
        "eos_token": END,
        "unk_token": END,
        # Prompts in a batch are padded on the left, with a token that the mask hides.
        "pad_token": END,
        "padding_side": "left",
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": context,
        "add_prefix_space": False,
    }
    if prompt is not None:
        content["sft_prompt"] = prompt
        content["sft_conversations"] = conversations
    if chat_template is not None:
        content["chat_template"] = chat_template
    return content


@contextmanager
def _written(folder: str | Path) -> Iterator[Path]:
    try:
        with replaced_folder(Path(folder), WRITTEN, kept=CARD) as temporary:
            yield temporary
    except SafetensorError as error:
        raise InputError(f"{folder}: cannot be written ({error})") from error
