"""Threads on CPUs that other processes use too: how many a run takes, and how they wait.

The doors import this file before torch. Its OpenMP reads the environment when it is loaded.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

# How often a thread of GNU's OpenMP looks for work before it sleeps, about 50 ns each time
# (`docs/performance.md` has the measurement). Its default, 300,000, wastes whole time slices when
# another process holds the CPU that the others wait for.
SPINS = 30_000
SPINS_WHEN_BUSY = 1_000

# The same bound for the OpenMP of Intel and LLVM, in milliseconds. Their default is 200.
BLOCK_MILLISECONDS = 1

STAT = Path("/proc/stat")


def bound_waiting() -> None:
    """Have OpenMP's threads wait for a bounded time. How they wait changes no number.

    What the user's environment says about waiting stays as it is.
    """
    if "OMP_WAIT_POLICY" in os.environ:
        return
    os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS_WHEN_BUSY if _is_busy() else SPINS))
    os.environ.setdefault("KMP_BLOCKTIME", str(BLOCK_MILLISECONDS))


def _is_busy() -> bool:
    """Return whether more threads want to run at this moment than there are CPUs."""
    try:
        running = Path("/proc/loadavg").read_text(encoding="utf-8").split()[3].partition("/")[0]
    except OSError:
        return False
    return int(running) > (os.cpu_count() or 1)


@dataclass(frozen=True)
class Usage:
    """Seconds of this process's CPUs, counted from some time in the past.

    Attributes:
        at: the clock.
        idle: all CPUs' idle time, summed.
        own: what this process and its children used.
    """

    at: float
    idle: float
    own: float

    @classmethod
    def now(cls) -> "Usage | None":
        """Read the counters of the system; None if it has none, as macOS."""
        if not STAT.exists():
            return None
        mine = os.sched_getaffinity(0)
        idle = 0
        for line in STAT.read_text(encoding="utf-8").splitlines():
            name, *ticks = line.split()
            if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in mine:
                # The fourth and the fifth are idle time and time that waits for a disk.
                idle += int(ticks[3]) + int(ticks[4])
        own = sum(os.times()[:4])
        return cls(time.monotonic(), idle / os.sysconf("SC_CLK_TCK"), own)

    def used_by_others(self, before: "Usage") -> float:
        """Return how many CPUs other processes used since `before`, on average."""
        elapsed = self.at - before.at
        used = len(os.sched_getaffinity(0)) - (self.idle - before.idle) / elapsed
        return max(0.0, used - (self.own - before.own) / elapsed)


# The imports until a run begins take seconds, over which the use of the CPUs is measured.
START = Usage.now()


def free_threads(threads: int, processes: int) -> tuple[int, float]:
    """Return how many threads a process should take, and how many CPUs others use.

    Each barrier waits for the slowest thread. So one more thread than there are free CPUs makes a
    step slower, not faster.

    Args:
        threads: the most that this process would take.
        processes: of this run on this machine. They divide the CPUs among them.
    """
    if processes > 1:
        return max(1, threads // processes), 0.0
    now = Usage.now()
    if START is None or now is None or now.at - START.at < 1:
        return threads, 0.0
    others = now.used_by_others(START)
    return max(1, min(threads, round(threads - others))), others
