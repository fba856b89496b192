"""Whether a machine was idle but for the benchmark: the CPUs that others used, and stolen time."""

import os
import time
from dataclasses import dataclass

from sft.cpus import STAT, Usage

# The most that others may use, in CPUs, and the most that the hypervisor may take of each CPU.
OTHERS = 0.1
STOLEN = 0.01
# Seconds for which a machine is watched before a benchmark begins.
WATCH = 2.0


@dataclass(frozen=True)
class Reading:
    """The counters of the system at one time."""

    usage: Usage
    stolen: float

    @classmethod
    def now(cls) -> "Reading | None":
        """Read the counters; None where there are none, as on macOS."""
        usage = Usage.now()
        if usage is None:
            return None
        # The first line sums all CPUs; the eighth number is the time that a hypervisor took.
        ticks = STAT.read_text(encoding="utf-8").split("\n", 1)[0].split()
        return cls(usage, int(ticks[8]) / os.sysconf("SC_CLK_TCK"))


def disturbances(before: Reading | None, after: Reading | None) -> list[str]:
    """Return what else the machine did between two readings; an empty list: nothing."""
    if before is None or after is None:
        return ["this system does not tell how busy it was"]
    found = []
    others = after.usage.used_by_others(before.usage)
    elapsed = after.usage.at - before.usage.at
    stolen = (after.stolen - before.stolen) / elapsed / (os.cpu_count() or 1)
    # Stolen time is not idle, so it is among what others used.
    others = max(0.0, others - stolen * (os.cpu_count() or 1))
    if others > OTHERS:
        found.append(f"other processes used {others:.1f} CPUs")
    if stolen > STOLEN:
        found.append(f"the hypervisor took {stolen:.0%} of each CPU")
    return found


def watched() -> list[str]:
    """Return what the machine does while this process sleeps for a moment."""
    before = Reading.now()
    time.sleep(WATCH)
    return disturbances(before, Reading.now())


def verdict(found: list[str]) -> str:
    """Return one sentence for a table."""
    if not found:
        return "The machine was idle otherwise."
    return f"**Not a clean measurement**: {'; '.join(found)}."
