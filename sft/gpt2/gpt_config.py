"""The architecture, read from and written to a checkpoint's `config.json`."""

from dataclasses import dataclass
from typing import Any

# Largest values that are accepted. Beyond these a model takes hours to build, or a size overflows.
MOST_LAYERS = 1000
LARGEST_SIZE = 1 << 24

# Keys of `config.json` that change the computation, with the only values that `model.py` computes.
_COMPUTED: dict[str, tuple[Any, ...]] = {
    "model_type": ("gpt2",),
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "reorder_and_upcast_attn": (False,),
    "add_cross_attention": (False,),
    "tie_word_embeddings": (True, False),
}


@dataclass(frozen=True)
class GPTConfig:
    """The architecture, in the names of Hugging Face's `config.json`. Defaults are the 124M's."""

    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    vocab_size: int = 50257
    n_positions: int = 1024
    n_inner: int | None = None  # width of the MLP; None: 4 * n_embd
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    tie_word_embeddings: bool = True  # the output head is the token embedding
    dropout: float = 0.0  # chosen by the training run: written to config.json, never read from it
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        for key in ("n_layer", "n_head", "n_embd", "vocab_size", "n_positions", "n_inner"):
            value = getattr(self, key)
            if key == "n_inner" and value is None:
                continue
            if type(value) is not int or value < 1:
                raise ValueError(f"{key}: expected a positive integer, found {value!r}")
            most = MOST_LAYERS if key == "n_layer" else LARGEST_SIZE
            if value > most:
                raise ValueError(f"{key}: expected at most {most:,}, found {value:,}")

        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd: {self.n_embd} cannot be divided among n_head = {self.n_head} heads"
            )

        for key in ("layer_norm_epsilon", "initializer_range"):
            value = getattr(self, key)
            if not isinstance(value, float) or not 0 < value < float("inf"):
                raise ValueError(f"{key}: expected a positive number, found {value!r}")

    @classmethod
    def from_hf(cls, config: dict[str, Any], dropout: float = 0.0) -> "GPTConfig":
        """Read a parsed `config.json`.

        Raises:
            ValueError: a required key is missing or has the wrong type, or a value asks for a
                computation that is not implemented here. The message names the key.
        """
        if "model_type" not in config:
            raise ValueError("model_type: missing, expected 'gpt2'")
        for key, values in _COMPUTED.items():
            if key in config and config[key] not in values:
                raise ValueError(
                    f"{key}: {config[key]!r} is not implemented, expected {values[0]!r}"
                )

        required = ("n_layer", "n_head", "n_embd", "vocab_size", "n_positions")
        for key in required:
            if key not in config:
                raise ValueError(f"{key}: missing")

        optional = (
            "n_inner",
            "layer_norm_epsilon",
            "initializer_range",
            "tie_word_embeddings",
            "eos_token_id",
        )
        found = {key: config[key] for key in required + optional if key in config}
        return cls(**found, dropout=dropout)

    def to_hf(self) -> dict[str, Any]:
        """Return the `config.json` that transformers' GPT2LMHeadModel reads."""
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
            "tie_word_embeddings": self.tie_word_embeddings,
            "embd_pdrop": self.dropout,
            "attn_pdrop": self.dropout,
            "resid_pdrop": self.dropout,
            "bos_token_id": self.eos_token_id,
            "eos_token_id": self.eos_token_id,
        }
