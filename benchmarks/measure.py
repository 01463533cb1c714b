"""CPU time and peak memory of code in this process and in processes of its own."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Usage:
    """What one run took."""

    cpu_s: float
    peak_mb: float = float("nan")


_PRINT_PEAK = """
print()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""

# As an installed package has it: compiled once.
_WITH_BYTECODE = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def in_own_process(code: str, *arguments: str, repeat: int = 5) -> list[Usage]:
    """Run Python code in fresh processes; user + system seconds and peak resident memory.

    The peak is the process's own (`VmHWM`): `ru_maxrss` would count its parent's before the start.

    Raises:
        RuntimeError: the code failed.
    """
    runs = []
    for _ in range(repeat):
        process = subprocess.Popen(
            [sys.executable, "-c", code + _PRINT_PEAK, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env=_WITH_BYTECODE,
        )
        assert process.stdout is not None
        *_, peak_kb = process.stdout.read().split()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"benchmark code failed with {process.returncode}:\n{code}")
        runs.append(Usage(usage.ru_utime + usage.ru_stime, int(peak_kb) / 1024))
    return runs


def here(function: Callable[[], object], *, repeat: int = 5) -> list[Usage]:
    """Run a function in this process; CPU seconds of all its threads."""
    runs = []
    for _ in range(repeat):
        start = time.process_time()
        function()
        runs.append(Usage(time.process_time() - start))
    return runs


def cpu(runs: Sequence[Usage]) -> float:
    """Median CPU seconds."""
    return statistics.median(run.cpu_s for run in runs)


def peak(runs: Sequence[Usage]) -> float:
    """Median peak memory, MB."""
    return statistics.median(run.peak_mb for run in runs)


def seconds(runs: Sequence[Usage]) -> str:
    """`median [least-most]` CPU seconds, with the number of runs."""
    times = [run.cpu_s for run in runs]
    digits = 5 if cpu(runs) < 0.01 else 3 if cpu(runs) < 1 else 2 if cpu(runs) < 10 else 1
    low, mid, high = (f"{t:.{digits}f}" for t in (min(times), cpu(runs), max(times)))
    return f"{mid} [{low}-{high}] n={len(runs)}"


def markdown(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)
