"""Fine-tune GPT-2 to follow instructions. For notebooks: `load_pretrained`, `generate`, `save_pretrained`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft.gpt2.checkpoint import load_pretrained, merge_adapter, save_pretrained
    from sft.gpt2.generate import generate

__all__ = ["generate", "load_pretrained", "merge_adapter", "save_pretrained"]


def __getattr__(name: str) -> Any:  # PEP 562: torch is imported when a name is used, not by `import sft`
    if name == "generate":
        from sft.gpt2.generate import generate

        return generate
    if name in __all__:
        from sft.gpt2 import checkpoint

        return getattr(checkpoint, name)
    raise AttributeError(f"module 'sft' has no attribute {name!r}")
