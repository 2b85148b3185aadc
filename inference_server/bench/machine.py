"""Describes the machine of a measurement, and what it takes of its memory."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from inference_server.engines.device import Compute

_EMULATED = 2.0
"""A CPU whose bfloat16 takes this many times as long as float32 emulates it."""


def machine() -> dict[str, str]:
    """Return processor, cores, accelerator and versions of this machine, by name."""
    from inference_server.engines.device import accelerator

    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    return {
        "processor": processor,
        "cores": str(os.cpu_count()),
        "accelerator": accelerator(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "numpy")},
    }


def arithmetics(compute: Compute) -> list[str]:
    """Return the dtypes that are worth measuring: bfloat16 is left out where it is emulated.

    Args:
        compute: device, and the dtype that `auto` is on it.
    """
    from inference_server.engines.arithmetic import cpu_speed

    with_bfloat16 = compute.dtype_name == "bfloat16"
    if compute.device.type == "cpu":
        speed = cpu_speed()
        with_bfloat16 = speed.bfloat16 < _EMULATED * speed.float32
    return ["float32", "bfloat16"] if with_bfloat16 else ["float32"]


class PeakMemory:
    """Peak memory of this process from now on: resident, and of tensors on a GPU.

    Args:
        compute: device of the models.
    """

    def __init__(self, compute: Compute) -> None:
        from inference_server.engines.device import forget_peak_memory, release_memory

        self._compute = compute
        release_memory()
        forget_peak_memory(compute.device)
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:  # not Linux, or not allowed: the peak since the start of the process
            return

    def values(self) -> dict[str, int]:
        """Return the peaks in MB, by name."""
        from inference_server.engines.device import peak_memory

        peaks = {"resident": _peak_resident()}
        if on_device := peak_memory(self._compute.device):
            peaks["gpu"] = on_device
        return {f"peak_{name}_mb": round(nbytes / 1e6) for name, nbytes in peaks.items()}


def _peak_resident() -> int:
    """Return the peak resident memory of this process in bytes; 0 where it is unknown."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return 0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most
