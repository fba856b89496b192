"""The old name of `sft.config.loading`."""

from sft.config.loading import from_dict, from_hydra

__all__ = ["from_dict", "from_hydra"]
