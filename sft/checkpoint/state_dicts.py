"""Weights that other code for GPT-2 saves with `torch.save`: the book's, and nanoGPT's.

    the book   github.com/rasbt/LLMs-from-scratch, the GPTModel of chapter 4, in all its variants
    nanoGPT    github.com/karpathy/nanoGPT, `ckpt.pt` of its train.py

Files are read with `weights_only=True`, so no code in them runs. Every tensor must be known by its
name and fit by its shape. Sizes come from the tensors. Only nanoGPT's file has the number of heads.
For the book's, it is that of the released GPT-2 of the same width.
"""

import pickle
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sft.checkpoint.weights import HEAD, PREFIX, skeleton
from sft.device import FLOAT_TYPES
from sft.errors import InputError
from sft.gpt2.model import GPT, GPTConfig

# Heads of the released GPT-2s, by the width of the model.
HEADS = {768: 12, 1024: 16, 1280: 20, 1600: 25}

# nanoGPT adds rows to the vocabulary up to a multiple of 64. No text is encoded to them.
MOST_ADDED_ROWS = 127

# torch.compile and DDP wrap a model, and put a name of their own before the tensors' names.
WRAPPERS = ("_orig_mod.", "module.")

# The book's names, and ours. The second ones are of variants: one matrix for queries, keys and
# values, and PyTorch's own LayerNorm.
BOOK = (
    (r"tok_emb\.weight", r"wte.weight"),
    (r"pos_emb\.weight", r"wpe.weight"),
    (r"out_head\.weight", HEAD),
    (r"trf_blocks\.(\d+)\.att\.W_(query|key|value)\.(weight|bias)", r"h.\1.attn.c_attn.\3"),
    (r"trf_blocks\.(\d+)\.att\.qkv\.(weight|bias)", r"h.\1.attn.c_attn.\2"),
    (r"trf_blocks\.(\d+)\.att\.(?:out_)?proj\.(weight|bias)", r"h.\1.attn.c_proj.\2"),
    (r"trf_blocks\.(\d+)\.ff\.layers\.0\.(weight|bias)", r"h.\1.mlp.c_fc.\2"),
    (r"trf_blocks\.(\d+)\.ff\.layers\.2\.(weight|bias)", r"h.\1.mlp.c_proj.\2"),
    (r"trf_blocks\.(\d+)\.norm([12])\.(?:scale|weight)", r"h.\1.ln_\2.weight"),
    (r"trf_blocks\.(\d+)\.norm([12])\.(?:shift|bias)", r"h.\1.ln_\2.bias"),
    (r"final_norm\.(?:scale|weight)", r"ln_f.weight"),
    (r"final_norm\.(?:shift|bias)", r"ln_f.bias"),
)
QKV = ("query", "key", "value")

# The causal mask, which both codes save together with the weights.
MASK = re.compile(r"(trf_blocks\.\d+\.att\.mask|transformer\.h\.\d+\.attn\.bias)")


@dataclass(frozen=True)
class Saved:
    """Tensors by our names, and the names that they had in the file.

    Attributes:
        kind: the code that saved them.
        optional: end of the names of biases that may be absent, in all layers at once.
        heads: their number, if the file has it.
    """

    kind: str
    tensors: dict[str, Tensor]
    keys: dict[str, str]
    optional: str
    heads: int | None = None


def load_state_dict(path: Path, vocab_size: int, heads: int | None = None) -> tuple[str, GPT]:
    """Return the code that saved a file, and the model in it, in fp32.

    Args:
        vocab_size: tokens of the tokenizer. A few extra rows are dropped.
        heads: number of heads; None: the file's, or the released model's of the same width.

    Raises:
        InputError: the file cannot be read, or its tensors are not those of a GPT-2.
    """
    saved = _recognise(_read(path), path)
    _cut_vocabulary(saved, vocab_size, path)
    config = _config(saved, vocab_size, heads, path)
    return saved.kind, _fill(config, saved, path)


def _read(path: Path) -> dict[str, Any]:
    """Return the dict in a file of `torch.save`."""
    try:
        # Only files in the newer format, a zip archive, can be mapped into memory.
        found = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            start = file.read(2)
        if start not in (b"PK", b"\x80\x02"):
            raise InputError(f"{path}: not a file of torch.save") from error
        raise InputError(
            f"{path}: holds objects other than tensors, which could run code and are not loaded; "
            "save the weights alone: torch.save(model.state_dict(), ...)"
        ) from error
    except (OSError, EOFError, RuntimeError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: not a complete file of torch.save ({reason})") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: expected a state dict, found {type(found).__name__}")
    return found


def _recognise(found: dict[str, Any], path: Path) -> Saved:
    """Tell by the names which code saved the file, and give the tensors our names."""
    # nanoGPT saves model and optimizer together, and so do some of the book's scripts.
    arguments = found.get("model_args")
    state = found
    for key in ("model", "model_state_dict"):
        if isinstance(found.get(key), dict):
            state = found[key]
    state = {_unwrapped(str(name)): tensor for name, tensor in state.items()}
    state = {name: tensor for name, tensor in state.items() if not MASK.fullmatch(name)}

    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise InputError(f"{path}: {name!r}: expected a tensor, found {type(tensor).__name__}")
        if tensor.dtype not in FLOAT_TYPES.values() or tensor.layout != torch.strided:
            raise InputError(
                f"{path}: tensor {name!r}: expected floating-point numbers, found {tensor.dtype}"
            )

    if "tok_emb.weight" in state:
        return _from_book(state, path)
    if f"{PREFIX}wte.weight" in state:
        keys = {name.removeprefix(PREFIX): name for name in state}
        tensors = {ours: state[key] for ours, key in keys.items()}
        heads = arguments.get("n_head") if isinstance(arguments, dict) else None
        return Saved("nanoGPT", tensors, keys, "bias", heads if type(heads) is int else None)
    names = ", ".join(list(state)[:4]) or "nothing"
    raise InputError(
        f"{path}: expected the tensors of the book's GPTModel (tok_emb.weight, ...) or of nanoGPT "
        f"(transformer.wte.weight, ...), found {names}"
    )


def _unwrapped(name: str) -> str:
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name


def _from_book(state: dict[str, Tensor], path: Path) -> Saved:
    keys: dict[str, str] = {}
    thirds: dict[str, dict[str, Tensor]] = {}
    tensors: dict[str, Tensor] = {}
    for key, tensor in state.items():
        ours = _book_name(key)
        part = re.search(r"W_(query|key|value)", key)
        if ours is None or (ours in tensors and not part):
            raise InputError(f"{path}: tensor {key!r} is not part of the book's GPTModel")
        keys.setdefault(ours, key)
        tensors[ours] = tensor
        if part:
            thirds.setdefault(ours, {})[part[1]] = tensor

    # Our layer has one matrix for queries, keys and values: (3 C, C).
    for ours, parts in thirds.items():
        if missing := [name for name in QKV if name not in parts]:
            key = re.sub("W_(query|key|value)", f"W_{missing[0]}", keys[ours])
            raise InputError(f"{path}: no tensor {key!r}; save the whole state dict of the model")
        if len({part.shape for part in parts.values()}) > 1:
            raise InputError(
                f"{path}: {keys[ours]!r}: queries, keys and values differ in shape, as in grouped "
                "attention, which is not a GPT-2's"
            )
        tensors[ours] = torch.cat([parts[name] for name in QKV])
    return Saved("the book's GPTModel", tensors, keys, optional="attn.c_attn.bias")


def _book_name(key: str) -> str | None:
    for theirs, ours in BOOK:
        if match := re.fullmatch(theirs, key):
            return match.expand(ours)
    return None


def _cut_vocabulary(saved: Saved, vocab_size: int, path: Path) -> None:
    """Drop the few rows beyond the vocabulary. A file with another vocabulary is refused."""
    rows = len(saved.tensors["wte.weight"])
    if not vocab_size <= rows <= vocab_size + MOST_ADDED_ROWS:
        raise InputError(
            f"{path}: tensor {saved.keys['wte.weight']!r} has {rows} rows, but GPT-2's tokenizer "
            f"has {vocab_size} tokens; a model of another vocabulary needs --tokenizer FOLDER"
        )
    for name in ("wte.weight", HEAD):
        if name in saved.tensors and len(saved.tensors[name]) == rows:
            saved.tensors[name] = saved.tensors[name][:vocab_size]


def _config(saved: Saved, vocab_size: int, heads: int | None, path: Path) -> GPTConfig:
    """Return the architecture, by the shapes of the tensors."""
    tensors = saved.tensors
    layers = [int(name.split(".")[1]) for name in tensors if re.match(r"h\.\d+\.", name)]
    for name in ("wpe.weight", "h.0.mlp.c_fc.weight"):
        if name not in tensors or tensors[name].dim() != 2:
            raise InputError(f"{path}: GPT-2's {name!r} is missing, or is not a matrix")
    width = tensors["wte.weight"].shape[-1]
    inner = tensors["h.0.mlp.c_fc.weight"].shape[0]

    if heads and saved.heads and heads != saved.heads:
        raise InputError(f"--heads: {heads}, but {path} says n_head = {saved.heads}")
    found = heads or saved.heads or HEADS.get(width)
    if found is None:
        raise InputError(
            f"{path}: does not say how many heads a model {width} wide has; give --heads NUMBER"
        )

    # A head that was trained, or began, as a matrix of its own may still be the embedding.
    head = tensors.get(HEAD)
    if head is not None and torch.equal(head, tensors["wte.weight"]):
        del tensors[HEAD]
        head = None
    try:
        return GPTConfig(
            n_layer=max(layers) + 1,
            n_head=found,
            n_embd=width,
            vocab_size=vocab_size,
            n_positions=len(tensors["wpe.weight"]),
            n_inner=None if inner == 4 * width else inner,
            tie_word_embeddings=head is None,
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from error


def _fill(config: GPTConfig, saved: Saved, path: Path) -> GPT:
    """Return the model with the tensors, each checked by name and shape."""
    model = skeleton(config)
    tensors = dict(saved.tensors)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}

    # The book's `qkv_bias=False` and nanoGPT's `bias=False` leave biases out.
    if not any(name.endswith(saved.optional) for name in tensors):
        optional = [name for name in expected if name.endswith(saved.optional)]
        tensors |= {name: torch.zeros(expected[name]) for name in optional}

    if missing := sorted(expected.keys() - tensors.keys()):
        raise InputError(f"{path}: GPT-2's tensor {missing[0]!r} is missing")
    if extra := sorted(tensors.keys() - expected.keys()):
        raise InputError(f"{path}: tensor {saved.keys[extra[0]]!r} is not part of {saved.kind}")
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise InputError(
                f"{path}: tensor {saved.keys.get(name, name)!r}: expected shape {tuple(shape)} as "
                f"{name}, found {tuple(tensors[name].shape)}"
            )
        tensors[name] = tensors[name].float().contiguous()
    model.load_state_dict(tensors, assign=True)
    return model
