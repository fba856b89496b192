"""The base of a checkpoint: the model that it was tuned from."""

import logging
from collections.abc import Callable
from pathlib import Path

from sft.checkpoint.folder import Pretrained
from sft.errors import InputError
from sft.summaries import RUN_SUMMARY, CheckpointUsed, read_run_summary, refuse_former_nano

log = logging.getLogger(__name__)


def base_of(tuned: Pretrained, load: Callable[[str, str | None], Pretrained]) -> Pretrained:
    """Load the base that a checkpoint names, at the commit that it was tuned from.

    Args:
        load: loads a checkpoint by its name and its commit; None: the newest commit, or a folder.

    Raises:
        InputError: the checkpoint names no base, the base cannot be loaded, or it has the same
            weights.
    """
    if tuned.base is None:
        raise InputError(f"{tuned.source} does not name its base")
    began = _beginning(tuned)
    try:
        base = load(tuned.base, _base_revision(tuned, began))
        if began and base.sha256 != began.sha256:
            refuse_former_nano(began.sha256, Path(tuned.source).parent)
    except InputError as error:
        raise InputError(f"{tuned.source}: its base cannot be loaded: {error}") from error
    if base.sha256 == tuned.sha256:
        raise InputError(f"{tuned.source}: its base, {tuned.base}, has the same weights")
    return base


def _beginning(tuned: Pretrained) -> CheckpointUsed | None:
    """Return the weights that a run's model was tuned from; None if no summary names them."""
    run = Path(tuned.source).parent
    if tuned.adapter or not (run / RUN_SUMMARY).exists():
        return None

    # Any folder may hold a file of this name. One that is not a run's stops nothing.
    try:
        began = read_run_summary(run).checkpoint
    except InputError as error:
        log.warning(f"warning: {error}; the base is taken at its newest commit")
        return None
    return began if began.source == tuned.base else None


def _base_revision(tuned: Pretrained, began: CheckpointUsed | None) -> str | None:
    """Return the commit of the base; None if it is not known.

    An adapter names the commit itself. Otherwise the summary of the run names it.
    """
    if tuned.adapter:
        return tuned.adapter.revision
    return began.revision if began else None
