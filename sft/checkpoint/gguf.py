"""GPT-2 as a GGUF file, which llama.cpp and the programs around it (Ollama, LM Studio) run.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The names of tensors and keys
come from llama.cpp's own package `gguf`. Matrices are (out, in), like the model's.
Without `output.weight` in the file, llama.cpp takes the embedding as the head.
"""

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

# Types of the matrices. llama.cpp needs vectors and positions in fp32.
TYPES = {
    "f32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "f16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}

# In q8_0, this many neighbours in a row share a scale.
BLOCK = 32


def write_gguf(
    model: GPT,
    tokenizer: tiktoken.Encoding,
    path: Path,
    dtype: str,
    name: str,
    chat_template: str | None = None,
) -> None:
    """Write model, tokenizer and chat template in one file.

    Args:
        dtype: a key of TYPES.

    Raises:
        InputError: the model's width is not a multiple of the type's block.
    """
    width = model.config.n_embd
    if dtype == "q8_0" and width % BLOCK:
        raise InputError(
            f"dtype: q8_0 takes rows in blocks of {BLOCK}, but n_embd is {width}; take f16"
        )

    # Keys: name, architecture, tokenizer, template.
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.GPT2])
    writer.add_name(name)
    _add_architecture(writer, model.config)
    _add_tokenizer(writer, tokenizer, model.config.vocab_size)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    matrix_type, file_type = TYPES[dtype]
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)

    state = model.state_dict()
    for name, key in _names(model).items():
        tensor = state[name]
        is_matrix = tensor.dim() > 1 and not key.startswith("position_embd")
        kind = matrix_type if is_matrix else GGMLQuantizationType.F32
        writer.add_tensor(key, gguf.quants.quantize(_array(tensor), kind), raw_dtype=kind)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


@torch.no_grad()
def read_gguf(path: Path, config: GPTConfig) -> GPT:
    """Return the model in a file that `write_gguf` wrote, in fp32."""
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
    """Add the tokens and the merges.

    Args:
        size: number of ids in the model. It may have more than the tokenizer, to round its size up.
            They get names that no text spells.
    """
    vocab, merges = spelled(tokenizer)
    tokens = list(vocab)
    types = []
    for token in vocab:
        is_special = token in tokenizer.special_tokens_set
        types.append(TokenType.CONTROL if is_special else TokenType.NORMAL)
    for id in range(len(vocab), size):
        tokens.append(f"<|unused {id}|>")
        types.append(TokenType.UNUSED)

    # The "pre-tokenizer" is the pattern that splits text into words.
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.eot_token)
    writer.add_eos_token_id(tokenizer.eot_token)
    writer.add_eot_token_id(tokenizer.eot_token)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)


def _names(model: GPT) -> dict[str, str]:
    """Return the name in the file for each of the model's tensors."""
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, model.config.n_layer)
    names = {
        name: known.get_name(name, try_suffixes=(".weight", ".bias")) for name in model.state_dict()
    }
    assert None not in names.values(), names
    return names  # type: ignore[return-value]


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().to("cpu", torch.float32).contiguous().numpy()
