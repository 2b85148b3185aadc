"""What a process and all that it has started cost: processor time and memory, by what they are."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_REPLICA = "ServeReplica:"
_NAMED = {"ProxyActor": "proxy", "ServeController": "controller"}
OTHERS = "others"
"""Of Ray's own: its stores of state and of objects, its agents, the process that started it all."""


def cpu_seconds(root: int) -> Counter[str]:
    """Processor time of a process and of those under it that live, so far.

    Args:
        root: its pid.

    Returns:
        Seconds by role: `proxy`, `controller`, the names of Serve's deployments, `others`.
    """
    seconds: Counter[str] = Counter()
    for pid, fields in _tree(root):
        seconds[_role(pid)] += (int(fields[11]) + int(fields[12])) / _TICKS  # type: ignore[assignment]
    return seconds


def memory_bytes(root: int) -> Counter[str]:
    """Memory of a process and of those under it, by role; what several share is divided by them."""
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
    """Pid and fields of `/proc/PID/stat` from the third on, of all that live."""
    stats: dict[int, list[str]] = {}
    children: defaultdict[int, list[int]] = defaultdict(list)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it has ended
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
    if _REPLICA in title:  # ServeReplica:APPLICATION:DEPLOYMENT, and the method that runs
        return title.rpartition(_REPLICA)[2].split(":")[1].partition(".")[0]
    return next((role for name, role in _NAMED.items() if name in title), OTHERS)
