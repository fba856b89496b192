"""GPT-2's weights in safetensors files, read and written one tensor at a time.

File format: https://huggingface.co/docs/safetensors. A JSON header gives the type, shape and place
of every tensor, and their bytes follow.

Names are those of transformers' GPT2LMHeadModel: the model's own, behind an optional
`transformer.`, and `lm_head.weight` for a head that is not the embedding. Its linear layers
("Conv1D", as in the released TensorFlow code) store a matrix as (in, out); PyTorch's are (out, in).
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sft.atomic import sha256_of
from sft.checkpoint.files import CONFIG, INDEX, WEIGHTS, shards
from sft.device import FLOAT_TYPES
from sft.errors import InputError
from sft.gpt2.model import GPT, GPTConfig

PREFIX = "transformer."
HEAD = "lm_head.weight"
CONV1D = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")

# Constants of transformers' attention, which older files hold.
MASK = re.compile(r"h\.\d+\.attn\.(masked_)?bias")

# The types that are read and written, as safetensors calls them.
FLOATS = {dtype: name.upper() for name, dtype in FLOAT_TYPES.items()}

# From a tensor's name in the model to the tensor, in the model's layout.
Read = Callable[[str], Tensor]


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, as the header describes it."""

    path: Path
    key: str
    dtype: str
    shape: tuple[int, ...]

    def read(self) -> Tensor:
        """Map the tensor from the file.

        Each tensor has a file handle of its own, so that dropping the tensor frees its memory.
        """
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(self.key)  # type: ignore[no-any-return]


class _SkipNormal(TorchFunctionMode):
    """Skip the random initialisation of parameters.

    There is nothing to initialise on the meta device, yet it costs a second of imports.
    """

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return None if function is nn.init.normal_ else function(*args, **(kwargs or {}))


def files(folder: Path) -> list[Path]:
    """Return the folder's weight files: one, or those that its index names.

    Raises:
        InputError: the index is unusable, or names a file that is missing.
    """
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    found = [folder / name for name in shards(folder / INDEX)]
    for path in found:
        if not path.exists():
            raise InputError(f"{path}: no such file, but {INDEX} names it")
    return found


def sha256(paths: list[Path]) -> str:
    """Return a file's hash. For several files, hash the lines "<sha256>  <name>"."""
    hashes = [_file_sha256(path) for path in paths]
    if len(hashes) == 1:
        return hashes[0]
    lines = "".join(f"{hash}  {path.name}\n" for hash, path in zip(hashes, paths, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    # The hub's cache names large files by their SHA-256, which was checked after the download.
    blob = path.resolve()
    if blob.parent.name == "blobs" and len(blob.name) == 64:
        return blob.name
    return sha256_of(path)


def skeleton(config: GPTConfig) -> GPT:
    """Return a model on the meta device: it has names and shapes, but no numbers."""
    with torch.device("meta"), _SkipNormal():
        return GPT(config)


def reader(
    paths: list[Path], config: GPTConfig, change: Callable[[str, Tensor], Tensor] | None = None
) -> Read:
    """Return a function that reads one tensor of these files.

    Args:
        change: is applied to each tensor, after its name.

    Raises:
        InputError: a file is damaged, or its tensors are not exactly the model's, by name, shape
            and type.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in skeleton(config).state_dict().items()}
    stored = _match(paths, expected)

    def read(name: str) -> Tensor:
        tensor = _transpose_linear(name, stored[name].read())
        return change(name, tensor) if change else tensor

    return read


def load(
    config: GPTConfig,
    read: Read,
    dtype: torch.dtype,
    device: torch.device,
    linear_dtype: torch.dtype | None = None,
) -> GPT:
    """Return a model with the tensors that `read` gives.

    They are read in the model's order. That is nearly the order in the files, so a disk reads
    sequentially. Peak memory stays near the model's size, since the largest tensor, `wte.weight`,
    comes first.

    Args:
        linear_dtype: type of the linear layers' matrices; None: `dtype`, like the rest.
    """
    model = skeleton(config)
    state = {}
    for name, parameter in model.named_parameters():
        own = linear_dtype if linear_dtype and CONV1D.fullmatch(name) else dtype
        state[name] = torch.empty(parameter.shape, dtype=own, device=device)
        if device.type != "meta":
            state[name].copy_(read(name))
    model.load_state_dict(state, assign=True)
    return model


def save(model: GPT, path: Path, dtype: torch.dtype, read: Read | None = None) -> None:
    """Write the model as transformers' GPT2LMHeadModel does.

    A head that is the embedding is not written a second time.

    Args:
        read: gives the tensors instead of the model, which may then be on the meta device.
    """
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    shapes = {}
    for name, tensor in state.items():
        key = name if name == HEAD else PREFIX + name
        shapes[key] = _transpose_linear(name, tensor).shape
    tensors = (
        _transpose_linear(name, read(name) if read else tensor) for name, tensor in state.items()
    )
    write(shapes, tensors, path, dtype)


def write(
    shapes: Mapping[str, Sequence[int]],
    tensors: Iterable[Tensor],
    path: Path,
    dtype: torch.dtype,
    **metadata: str,
) -> None:
    """Write a safetensors file, one tensor at a time.

    safetensors' own function needs all tensors contiguous and in the file's type at once, which can
    double the memory.

    Args:
        shapes: of the tensors, by key, in their order.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} | metadata}
    end = 0
    for key, shape in shapes.items():
        begin = end
        end = begin + math.prod(shape) * dtype.itemsize
        header[key] = {"dtype": FLOATS[dtype], "shape": list(shape), "data_offsets": [begin, end]}

    # Spaces fill the header up, so that the numbers after it are aligned.
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for tensor in tensors:
            file.write(tensor.to("cpu", dtype).contiguous().view(torch.uint8).numpy().data)


def _transpose_linear(name: str, tensor: Tensor) -> Tensor:
    """Transpose the matrix of a linear layer, and return any other tensor as it is."""
    return tensor.t() if CONV1D.fullmatch(name) else tensor


def _match(paths: list[Path], expected: dict[str, tuple[int, ...]]) -> dict[str, Stored]:
    """Check all names, shapes and types, and return the stored tensor of each parameter.

    Args:
        expected: the model's shapes, by name.
    """
    stored = headers(paths)
    head = None if HEAD in expected else stored.pop(HEAD, None)
    stored = {name: tensor for name, tensor in stored.items() if not MASK.fullmatch(name)}

    in_file = {}
    for name, shape in expected.items():
        in_file[name] = shape[::-1] if CONV1D.fullmatch(name) else shape
    check(stored, in_file, paths[0].parent)
    if head:
        _check_tied(head, stored["wte.weight"])
    return stored


def check(stored: dict[str, Stored], expected: dict[str, tuple[int, ...]], where: Path) -> None:
    """Raise InputError unless these are exactly the tensors expected, by name, shape and type."""
    if missing := sorted(expected.keys() - stored.keys()):
        name = missing[0]
        raise InputError(
            f"{where}: no tensor {name!r} of shape {expected[name]}{_and_more(missing)}"
        )
    if extra := sorted(stored.keys() - expected.keys()):
        name = extra[0]
        raise InputError(
            f"{stored[name].path}: tensor {name!r} is not part of this model{_and_more(extra)}"
        )
    for name, tensor in stored.items():
        _check_tensor(tensor, expected[name])


def headers(paths: Iterable[Path]) -> dict[str, Stored]:
    """Return all tensors in the files, by the model's names."""
    found: dict[str, Stored] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118
                    view = file.get_slice(key)
                    name = key.removeprefix(PREFIX)
                    if name in found:
                        raise InputError(
                            f"{path}: tensor {name!r} is there twice, also in "
                            f"{found[name].path.name}"
                        )
                    found[name] = Stored(path, key, view.get_dtype(), tuple(view.get_shape()))
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path}: {_guess_content(path)} ({error}); get the file again"
            ) from error
    return found


def _check_tensor(tensor: Stored, shape: tuple[int, ...]) -> None:
    where = f"{tensor.path}: tensor {tensor.key!r}"
    if tensor.shape != shape:
        raise InputError(f"{where}: expected shape {shape}, found {tensor.shape}")
    if tensor.dtype not in FLOATS.values():
        known = ", ".join(FLOATS.values())
        raise InputError(f"{where}: expected one of {known}, found {tensor.dtype}")


def _check_tied(head: Stored, embedding: Stored) -> None:
    _check_tensor(head, embedding.shape)
    if not torch.equal(head.read(), embedding.read()):
        raise InputError(
            f"{head.path}: {HEAD!r} differs from wte.weight, but {CONFIG} does not set "
            "tie_word_embeddings to false; set it there if the model has a head of its own"
        )


def _guess_content(path: Path) -> str:
    """Guess what a file is, as it is not a safetensors file."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if not start:
        return "empty"
    if start.startswith(b"<"):
        return "a web page, not a safetensors file"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself (`git lfs pull`)"
    return "not a whole safetensors file"


def _and_more(names: list[str]) -> str:
    return f", nor {len(names) - 1} more" if len(names) > 1 else ""
