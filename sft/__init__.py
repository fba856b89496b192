"""Fine-tune GPT-2 to follow instructions. For notebooks: load, train on a list of dicts, ask, measure, save."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft.api import answer, evaluate, finetune, save
    from sft.checkpoint.folder import load_pretrained, merge_adapter, save_pretrained
    from sft.gpt2.generate import generate

__all__ = [
    "answer",
    "evaluate",
    "finetune",
    "generate",
    "load_pretrained",
    "merge_adapter",
    "save",
    "save_pretrained",
]


def __getattr__(
    name: str,
) -> Any:  # PEP 562: torch is imported when a name is used, not by `import sft`
    for module in (
        ("sft.checkpoint.folder", "sft.gpt2.generate", "sft.api") if name in __all__ else ()
    ):
        if hasattr(found := import_module(module), name):
            return getattr(found, name)
    raise AttributeError(f"module 'sft' has no attribute {name!r}")
