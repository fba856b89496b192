"""The order of the callbacks, which decides what a run has written when it ends early."""

from collections.abc import Sequence

from lightning.pytorch import Callback

from sft.training.interruption import Interruption
from sft.training.memory import EnoughMemory
from sft.training.metrics import Metrics
from sft.training.mps import EmptyCache
from sft.training.profile import Profile
from sft.training.progress import Progress
from sft.training.run_folder import RunFolder
from sft.training.samples import SampleAnswer
from sft.training.sanity import SanityGate
from sft.training.trackers import Tracking

# At each hook Lightning calls the callbacks in the order of its list.
ORDER: tuple[type[Callback], ...] = (
    # Signals are noted before the first loss probe, which they may interrupt.
    Interruption,
    # The bar exists before others log above it.
    Progress,
    # Too little memory is found before the loss probes, which can take minutes.
    EnoughMemory,
    # Weights that are refused leave no row of metrics, and `outputs/latest` as it was.
    SanityGate,
    # The trace of a step ends before the callbacks below run.
    Profile,
    # A row is written before the checkpoint of its step. A run killed in between repeats the step
    # and cuts the row; in the other order the row would be missing for good. An interrupted
    # validation is repeated before RunFolder compares its loss with the best.
    Metrics,
    # It ends an interrupted run, so what follows does not run for a run that leaves.
    RunFolder,
    # Its final numbers include RunFolder's best loss.
    Tracking,
    # An answer takes seconds. The checkpoint is on the disk by then.
    SampleAnswer,
    # It frees what all others have used.
    EmptyCache,
)


def in_order(callbacks: Sequence[Callback]) -> list[Callback]:
    """Return the callbacks of a run as Lightning is to call them."""
    return sorted(callbacks, key=lambda callback: ORDER.index(type(callback)))
