"""Fine-tune GPT-2 to follow instructions.

For notebooks: load a model, train it on a list of dicts, ask it, measure it, save it.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sft.api import answer, evaluate, finetune, save
    from sft.checkpoint.folder import load_pretrained, merge_adapter, save_pretrained
    from sft.gpt2.generate import generate
    from sft.runs import Run

__all__ = [
    "Run",
    "answer",
    "evaluate",
    "finetune",
    "generate",
    "load_pretrained",
    "merge_adapter",
    "save",
    "save_pretrained",
]

# The files that define these names, the quickest to import first.
_FILES = ("sft.checkpoint.folder", "sft.gpt2.generate", "sft.runs", "sft.api")


def __getattr__(name: str) -> Any:
    """Import torch when a name is used, not by `import sft` (PEP 562)."""
    if name in __all__:
        # The doors do this before they import torch. Later it has no effect.
        from sft.cpus import bound_waiting

        bound_waiting()
        for file in _FILES:
            module = import_module(file)
            if hasattr(module, name):
                return getattr(module, name)
    raise AttributeError(f"module 'sft' has no attribute {name!r}")
