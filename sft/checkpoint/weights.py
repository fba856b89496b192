"""A GPT-2's weights in safetensors files, one tensor at a time.

File format: https://huggingface.co/docs/safetensors (a JSON header with every tensor's type, shape and place, then the
bytes). Names are those of transformers' GPT2LMHeadModel, which are the model's own behind an optional `transformer.`;
its linear layers ("Conv1D", as in the released TensorFlow code) keep a matrix as (in, out), PyTorch's as (out, in).
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

from sft.checkpoint import hub
from sft.checkpoint.hub import INDEX, WEIGHTS
from sft.errors import InputError
from sft.gpt2.model import GPT, GPTConfig

PREFIX, HEAD = "transformer.", "lm_head.weight"
MASK = re.compile(
    r"h\.\d+\.attn\.(masked_)?bias"
)  # constants of transformers' attention, in older files
CONV1D = re.compile(r"h\.\d+\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight")
Read = Callable[[str], Tensor]  # a tensor, as the model has it, by its name
FLOATS = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


@dataclass(frozen=True)
class Stored:
    """A tensor in a file, known by its header."""

    path: Path
    key: str
    dtype: str
    shape: tuple[int, ...]

    def read(self) -> Tensor:
        """The tensor, mapped from the file through a handle of its own, so that dropping it frees its memory."""
        with safe_open(self.path, framework="pt") as file:
            return file.get_tensor(self.key)  # type: ignore[no-any-return]


class _Undrawn(TorchFunctionMode):
    """Leaves new parameters undrawn: there is nothing to draw on the meta device, yet it costs a second of imports."""

    def __torch_function__(
        self,
        function: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return None if function is nn.init.normal_ else function(*args, **(kwargs or {}))


def files(folder: Path) -> list[Path]:
    """The folder's weight files: one, or those that its index names.

    Raises:
        InputError: the index is unusable, or names a file that is not there.
    """
    if (folder / WEIGHTS).exists():
        return [folder / WEIGHTS]
    found = [folder / name for name in hub.shards(folder / INDEX)]
    if missing := [path for path in found if not path.exists()]:
        raise InputError(f"{missing[0]}: no such file, but {INDEX} names it")
    return found


def sha256(paths: list[Path]) -> str:
    """The file's hash; of several files, the hash of the lines "<sha256>  <name>"."""
    hashes = [_file_sha256(path) for path in paths]
    lines = "".join(f"{hash}  {path.name}\n" for hash, path in zip(hashes, paths, strict=True))
    return hashes[0] if len(hashes) == 1 else hashlib.sha256(lines.encode()).hexdigest()


def _file_sha256(path: Path) -> str:
    blob = (
        path.resolve()
    )  # the hub's cache names large files by their hash, compared when they were downloaded
    known = blob.parent.name == "blobs" and len(blob.name) == 64
    return blob.name if known else hub.digest(path)


def skeleton(config: GPTConfig) -> GPT:
    """A model without numbers, on torch's meta device."""
    with torch.device("meta"), _Undrawn():
        return GPT(config)


def reader(
    paths: list[Path], config: GPTConfig, change: Callable[[str, Tensor], Tensor] | None = None
) -> Read:
    """These files' tensors, one at a time.

    Args:
        change: what becomes of each tensor, by its name.

    Raises:
        InputError: a file is damaged, or its tensors are not exactly the model's, by name, shape and type.
    """
    stored = _match(
        paths, {name: tuple(tensor.shape) for name, tensor in skeleton(config).state_dict().items()}
    )

    def read(name: str) -> Tensor:
        tensor = _turn(name, stored[name].read())
        return change(name, tensor) if change else tensor

    return read


def load(
    config: GPTConfig,
    read: Read,
    dtype: torch.dtype,
    device: torch.device,
    linear_dtype: torch.dtype | None = None,
) -> GPT:
    """A model with the tensors that `read` gives, one after the other.

    They are read in the model's order, which is nearly that of the files, so that a disk reads on from place to place.
    Peak memory stays near the model's size, since the largest tensor, `wte.weight`, is read first.

    Args:
        linear_dtype: of the linear layers' matrices; None: `dtype`, as all else.
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
    """Write the model as transformers' GPT2LMHeadModel would; the head is the embedding and is not written twice.

    Args:
        read: gives the tensors, instead of the model, which may then be on the meta device.
    """
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    shapes = {PREFIX + name: _turn(name, tensor).shape for name, tensor in state.items()}
    write(
        shapes,
        (_turn(name, read(name) if read else tensor) for name, tensor in state.items()),
        path,
        dtype,
    )


def write(
    shapes: Mapping[str, Sequence[int]],
    tensors: Iterable[Tensor],
    path: Path,
    dtype: torch.dtype,
    **metadata: str,
) -> None:
    """A safetensors file, a tensor at a time: safetensors' own way wants them all contiguous and in their type at once,
    which can be as much memory again as the model takes."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"} | metadata}
    end = 0
    for key, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[key] = {"dtype": FLOATS[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)  # so that the numbers are aligned
    with path.open("wb") as file:
        file.write(len(head).to_bytes(8, "little") + head)
        for tensor in tensors:
            file.write(tensor.to("cpu", dtype).contiguous().view(torch.uint8).numpy().data)


def _turn(name: str, tensor: Tensor) -> Tensor:
    """From (in, out) to (out, in) or back, for the matrices of linear layers."""
    return tensor.t() if CONV1D.fullmatch(name) else tensor


def _match(paths: list[Path], expected: dict[str, tuple[int, ...]]) -> dict[str, Stored]:
    """The stored tensor of each of the model's names, after checking all."""
    stored = headers(paths)
    head = stored.pop(HEAD, None)
    stored = {name: tensor for name, tensor in stored.items() if not MASK.fullmatch(name)}
    turned = {
        name: shape[::-1] if CONV1D.fullmatch(name) else shape for name, shape in expected.items()
    }
    check(stored, turned, paths[0].parent)
    if head:
        _check_tied(head, stored["wte.weight"])
    return stored


def check(stored: dict[str, Stored], expected: dict[str, tuple[int, ...]], where: Path) -> None:
    """Raises InputError unless these are exactly the tensors expected, by name, shape and type."""
    if missing := sorted(expected.keys() - stored.keys()):
        raise InputError(
            f"{where}: no tensor {missing[0]!r} of shape {expected[missing[0]]}{_more(missing)}"
        )
    if extra := sorted(stored.keys() - expected.keys()):
        raise InputError(
            f"{stored[extra[0]].path}: tensor {extra[0]!r} is not part of this model{_more(extra)}"
        )
    for name, tensor in stored.items():
        _check_tensor(tensor, expected[name])


def headers(paths: Iterable[Path]) -> dict[str, Stored]:
    """All tensors in the files, by the model's names."""
    found: dict[str, Stored] = {}
    for path in paths:
        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118
                    view = file.get_slice(key)
                    name = key.removeprefix(PREFIX)
                    if name in found:
                        raise InputError(
                            f"{path}: tensor {name!r} is there twice, also in {found[name].path.name}"
                        )
                    found[name] = Stored(path, key, view.get_dtype(), tuple(view.get_shape()))
        except (SafetensorError, OSError) as error:
            raise InputError(
                f"{path}: {_what_is_it(path)} ({error}); get the file again"
            ) from error
    return found


def _check_tensor(tensor: Stored, shape: tuple[int, ...]) -> None:
    if tensor.shape != shape:
        raise InputError(
            f"{tensor.path}: tensor {tensor.key!r}: expected shape {shape}, found {tensor.shape}"
        )
    if tensor.dtype not in FLOATS.values():
        raise InputError(
            f"{tensor.path}: tensor {tensor.key!r}: expected one of {', '.join(FLOATS.values())}, found {tensor.dtype}"
        )


def _check_tied(head: Stored, embedding: Stored) -> None:
    _check_tensor(head, embedding.shape)
    if not torch.equal(head.read(), embedding.read()):
        raise InputError(
            f"{head.path}: {HEAD!r} differs from wte.weight; only a tied head is implemented"
        )


def _what_is_it(path: Path) -> str:
    """What a file that is no safetensors file seems to be."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if not start:
        return "empty"
    if start.startswith(b"<"):
        return "a web page, not a safetensors file"
    if start.startswith(b"version https://git-lfs"):
        return "a Git LFS pointer, not the file itself (`git lfs pull`)"
    return "not a whole safetensors file"


def _more(names: list[str]) -> str:
    return f", nor {len(names) - 1} more" if len(names) > 1 else ""
