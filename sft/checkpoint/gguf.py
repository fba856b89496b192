"""GPT-2 as a GGUF file, which llama.cpp and the programs around it (Ollama, LM Studio) run.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. An architecture's names of tensors and keys
come from llama.cpp's own package `gguf`. Matrices are (out, in), as the model's own; the head is the embedding, which
llama.cpp takes where the file has no `output.weight`.
"""

from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
import tiktoken
import torch
from gguf import GGMLQuantizationType, LlamaFileType, TokenType
from numpy.typing import NDArray
from torch import Tensor

from sft.errors import InputError
from sft.gpt2.model import GPT, GPTConfig
from sft.gpt2.tokenizer import spelled

TYPES = {  # of the matrices; vectors and positions are always in fp32, as llama.cpp wants them
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
BLOCK = 32  # neighbours of a row that share a scale in q8_0


def write_gguf(
    model: GPT,
    tokenizer: tiktoken.Encoding,
    path: Path,
    dtype: str,
    name: str,
    chat_template: str | None = None,
) -> None:
    """Write model, tokenizer and chat template in one file.

    Raises:
        InputError: the model's width cannot be cut into the type's blocks.
    """
    if dtype == "q8_0" and model.config.n_embd % BLOCK:
        raise InputError(
            f"dtype: q8_0 takes rows in blocks of {BLOCK}, but n_embd is {model.config.n_embd}; take f16"
        )
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GPT2])
    writer.add_name(name)
    _add_architecture(writer, model.config)
    _add_tokenizer(writer, tokenizer, model.config.vocab_size)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    kind, file_type = TYPES[dtype]
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for key, tensor in _named(model):
        small = tensor.dim() == 1 or key.startswith("position_embd")
        as_stored = GGMLQuantizationType.F32 if small else kind
        writer.add_tensor(key, gguf.quants.quantize(_array(tensor), as_stored), raw_dtype=as_stored)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


@torch.no_grad()
def read_gguf(path: Path, config: GPTConfig) -> GPT:
    """The model in a file that `write_gguf` wrote, in fp32."""
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    with torch.device("meta"):
        model = GPT(config)
    state = {}
    for name, key in _names(model).items():
        values = gguf.quants.dequantize(stored[key].data, stored[key].tensor_type)
        state[name] = torch.from_numpy(np.array(values, dtype=np.float32))
    model.load_state_dict(state, assign=True)
    return model


def _add_architecture(writer: gguf.GGUFWriter, config: GPTConfig) -> None:
    writer.add_block_count(config.n_layer)
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_inner or 4 * config.n_embd)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: tiktoken.Encoding, size: int) -> None:
    """The tokens; ids that the model has beyond them, to round its size up, get names that no text spells."""
    vocab, merges = spelled(tokenizer)
    beyond = range(len(vocab), size)
    special = [
        TokenType.CONTROL if token in tokenizer.special_tokens_set else TokenType.NORMAL
        for token in vocab
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # the pattern that cuts text into words
    writer.add_token_list([*vocab, *(f"<|unused {id}|>" for id in beyond)])
    writer.add_token_types([*special, *(TokenType.UNUSED for _ in beyond)])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.eot_token)
    writer.add_eos_token_id(tokenizer.eot_token)
    writer.add_eot_token_id(tokenizer.eot_token)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _named(model: GPT) -> Iterator[tuple[str, Tensor]]:
    state = model.state_dict()
    return ((key, state[name]) for name, key in _names(model).items())


def _names(model: GPT) -> dict[str, str]:
    """The file's name of each of the model's tensors."""
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, model.config.n_layer)
    names = {
        name: known.get_name(name, try_suffixes=(".weight", ".bias")) for name in model.state_dict()
    }
    assert None not in names.values(), names
    return names  # type: ignore[return-value]


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy()
