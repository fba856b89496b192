"""GPT-2, from the embedding to the logits.

References: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), for the architecture, and
Vaswani et al., "Attention Is All You Need" (2017), for attention. Module names are those of the released checkpoints.

Shapes: B rows, T positions, N real (unpadded) tokens, C = n_embd channels, nh heads of hs = C / nh channels, V words.
Between the layers there are no rows and no padding, just a stream of N tokens, (N, C). Only attention needs to know
which tokens belong together; it gets that knowledge as a function, `attend`, so that training and decoding with a
cache run the very same layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sft.gpt2.loss import Kept, cross_entropies, tied
from sft.gpt2.padding import Padding, indices_of

Attend = Callable[[Tensor], Tensor]  # queries, keys and values (N, 3, nh, hs) -> attended values (N, nh, hs)

FEW = 256  # tokens: see `linear`
MOST_LAYERS, LARGEST = 1000, 1 << 24  # of a config.json: beyond, a model takes hours to make, or a size overflows

# config.json keys that change the computation, with the only values that this file computes.
_COMPUTED: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True,),
}


@dataclass(frozen=True)
class GPTConfig:
    """The architecture, in the names of Hugging Face's `config.json`. Defaults are the 124M model's."""

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    vocab_size: int = 50257
    n_positions: int = 1024
    n_inner: int | None = None  # width of the MLP; None: 4 * n_embd
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    dropout: float = 0.0  # a choice of the training run, so it is written to config.json but not read from it
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        for key in ("n_layer", "n_head", "n_embd", "vocab_size", "n_positions", "n_inner"):
            value = getattr(self, key)
            if (type(value) is not int or value < 1) and not (key == "n_inner" and value is None):
                raise ValueError(f"{key}: expected a positive integer, found {value!r}")
            if value is not None and value > (most := MOST_LAYERS if key == "n_layer" else LARGEST):
                raise ValueError(f"{key}: expected at most {most:,}, found {value:,}")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd: {self.n_embd} cannot be divided among n_head = {self.n_head} heads")
        for key in ("layer_norm_epsilon", "initializer_range"):
            value = getattr(self, key)
            if not isinstance(value, float) or not 0 < value < float("inf"):
                raise ValueError(f"{key}: expected a positive number, found {value!r}")

    @classmethod
    def from_hf(cls, config: dict[str, Any], dropout: float = 0.0) -> "GPTConfig":
        """Read a parsed `config.json`.

        Raises:
            ValueError: a needed key is missing or of the wrong kind, or a value asks for a computation that is not
                GPT-2's as implemented here. The message names the key.
        """
        if "model_type" not in config:
            raise ValueError("model_type: missing, expected 'gpt2'")
        for key, values in _COMPUTED.items():
            if key in config and config[key] not in values:
                raise ValueError(f"{key}: {config[key]!r} is not implemented, expected {values[0]!r}")
        needed = ("n_layer", "n_head", "n_embd", "vocab_size", "n_positions")
        if missing := [key for key in needed if key not in config]:
            raise ValueError(f"{missing[0]}: missing")
        optional = ("n_inner", "layer_norm_epsilon", "initializer_range", "eos_token_id")
        found = {key: config[key] for key in needed + optional if key in config}
        return cls(**found, dropout=dropout)

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that transformers' GPT2LMHeadModel reads."""
        computed = {key: values[0] for key, values in _COMPUTED.items()}
        return computed | {
            "architectures": ["GPT2LMHeadModel"],
            "n_layer": self.n_layer,
            "n_head": self.n_head,
            "n_embd": self.n_embd,
            "n_inner": self.n_inner,
            "vocab_size": self.vocab_size,
            "n_positions": self.n_positions,
            "n_ctx": self.n_positions,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "initializer_range": self.initializer_range,
            "embd_pdrop": self.dropout,
            "attn_pdrop": self.dropout,
            "resid_pdrop": self.dropout,
            "bos_token_id": self.eos_token_id,
            "eos_token_id": self.eos_token_id,
        }


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, (N, in) to (N, out).

    On a CPU, in bf16, W^T would first be rearranged for the processor's matrix unit, which for few tokens takes much of
    the time. (W x^T)^T is the same, and rearranges x instead; a single token is a vector.
    """
    bare = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    if not bare or x.device.type != "cpu" or x.dtype != torch.bfloat16 or len(x) > FEW:
        return F.linear(x, weight, bias)
    if len(x) == 1:
        y = torch.mv(weight, x[0]) if bias is None else torch.addmv(bias, weight, x[0])
        return y.unsqueeze(0)
    y = torch.mm(weight, x.t()) if bias is None else torch.addmm(bias.unsqueeze(1), weight, x.t())
    return y.t()


class Linear(nn.Linear):
    """A layer that computes `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


class Attention(nn.Module):
    """Multi-head self-attention with one matrix for queries, keys and values."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.heads = (3, config.n_head, config.n_embd // config.n_head)
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = Linear(config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:  # (N, C) -> (N, C)
        y = attend(self.c_attn(x).view(-1, *self.heads))
        return self.dropout(self.c_proj(y.flatten(1)))  # type: ignore[no-any-return]


class MLP(nn.Module):
    """Two linear layers around the tanh approximation of GELU (Hendrycks and Gimpel, 2016)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        width = config.n_inner or 4 * config.n_embd
        self.c_fc = Linear(config.n_embd, width)
        self.c_proj = Linear(width, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:  # (N, C) -> (N, C)
        return self.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A layer: LayerNorm stands before attention and before the MLP, on the residual branch (GPT-2 paper, 2.3)."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, attend: Attend) -> Tensor:  # (N, C) -> (N, C)
        x = x + self.attn(self.ln_1(x), attend)
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class GPT(nn.Module):
    """The language model. The output head is the token embedding, transposed ("tied").

    With `activation_checkpointing`, training keeps of each layer its input alone, and computes the layer a second time
    in the backward pass (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016): less memory, more time,
    the same numbers.
    """

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.config = config
        self.activation_checkpointing = False
        self._kept = Kept()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self._initialise()

    def _initialise(self) -> None:
        """Random weights as in the GPT-2 paper: 2.3, residual projections shrink with the number of residual layers."""
        std = self.config.initializer_range
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=std / (2 * self.config.n_layer) ** 0.5)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def compile_layers(self) -> None:
        """Compile each layer in place (`torch.compile`); the first batches take longer."""
        for block in self.h:
            block.compile(dynamic=True)

    def forward(self, input_ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits of the next token.

        Args:
            input_ids: (B, T) token ids, padded on the right with any id.
            lengths: (B,) number of real tokens in each row; None: no padding.

        Returns:
            (B, T, V); zeros at the padding.
        """
        padding = self._padding(input_ids, lengths)
        logits = self.head(self._features(self.wte(padding.ids), padding))
        return padding.restore(logits[: padding.count])

    def features(self, input_ids: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Final hidden states (N, C) of the real tokens, row after row; arguments as in `forward`.

        Raises:
            ValueError: rows are longer than the context.
        """
        padding = self._padding(input_ids, lengths)
        return self._features(self.wte(padding.ids), padding)[: padding.count]

    def _padding(self, input_ids: Tensor, lengths: Tensor | None) -> Padding:
        if input_ids.shape[1] > self.config.n_positions:
            raise ValueError(f"rows of {input_ids.shape[1]} tokens do not fit the context of {self.config.n_positions}")
        return Padding(input_ids, lengths)

    def _features(self, x: Tensor, padding: Padding) -> Tensor:  # (N, C) -> (N, C)
        attend = partial(padding.attend, dropout=self.config.dropout if self.training else 0.0)
        return self.layers(x, padding.places(), [attend] * self.config.n_layer)

    def layers(self, x: Tensor, positions: Tensor, attends: list[Attend]) -> Tensor:
        """The way through the network of N tokens' embeddings (N, C) at positions (N,): hidden states (N, C)."""
        x = self.drop(x + self.wpe(positions))
        for block, attend in zip(self.h, attends, strict=True):
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, attend, use_reentrant=False)
            else:
                x = block(x, attend)
        return self.ln_f(x)  # type: ignore[no-any-return]

    def head(self, x: Tensor) -> Tensor:  # (N, C) -> (N, V)
        return linear(x, self.wte.weight)

    def token_losses(
        self, input_ids: Tensor, labels: Tensor, lengths: Tensor | None = None, ignore_index: int = -100
    ) -> Tensor:
        """Cross entropy, in nats, of each supervised token, row after row; the head runs at these positions alone.

        Args:
            input_ids, lengths: as in `forward`.
            labels: (B, T), the token that follows each position (already shifted), or `ignore_index`.

        Returns:
            (number of labels that are not `ignore_index`,), in fp32.
        """
        padding = self._padding(input_ids, lengths)
        embeddings, matrix = tied(self.wte.weight, padding.ids)
        x = self._features(embeddings, padding)
        targets = padding.remove(labels)  # (N,)
        wanted = targets != ignore_index
        wanted[padding.count :] = False
        places, count = indices_of(wanted)
        targets = targets[places]
        targets[count:] = 0
        return cross_entropies(x[places], matrix, targets, self._kept)[:count]
