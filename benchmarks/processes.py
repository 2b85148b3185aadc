"""CPU time and memory of a process and its descendants, by role."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_REPLICA = "ServeReplica:"
_NAMED = {"ServeController": "controller"}
OTHERS = "others"
"""Role of all other processes: Ray's state and object stores, its agents, the root process."""


def cpu_seconds(root: int) -> Counter[str]:
    """Return the CPU time of a process and its living descendants.

    Args:
        root: process id.

    Returns:
        Seconds by role: `controller`, names of Ray Serve deployments, `others`.
    """
    seconds: Counter[str] = Counter()
    for pid, fields in _tree(root):
        seconds[_role(pid)] += (int(fields[11]) + int(fields[12])) / _TICKS  # type: ignore[assignment]
    return seconds


def memory_bytes(root: int) -> Counter[str]:
    """Return the memory of a process and its descendants.

    Args:
        root: process id.

    Returns:
        Bytes by role; shared memory is divided between its users (PSS).
    """
    held: Counter[str] = Counter()
    for pid, _ in _tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        held[_role(pid)] += sum(
            1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:")
        )
    return held


def _tree(root: int) -> Iterator[tuple[int, list[str]]]:
    """Yield process id and fields of `/proc/PID/stat`, from the third, of the process tree."""
    stats: dict[int, list[str]] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):  # the process has ended
            continue
        fields = text.rpartition(")")[2].split()
        stats[int(entry.name)] = fields
        children[int(fields[1])].append(int(entry.name))
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        if pid in stats:
            yield pid, stats[pid]
        waiting += children[pid]


def _role(pid: int) -> str:
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except (FileNotFoundError, ProcessLookupError):
        return OTHERS
    if not title.startswith("ray::"):
        return OTHERS
    if _REPLICA in title:  # ServeReplica:APPLICATION:DEPLOYMENT, then the running method
        return title.rpartition(_REPLICA)[2].split(":")[1].partition(".")[0]
    return next((role for name, role in _NAMED.items() if name in title), OTHERS)
