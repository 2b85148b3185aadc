"""`inference-server segment`, stopped at a window of a raster.

    python -m tests.cli.gated WINDOWS ARGUMENTS...

When that many windows are recorded, the process writes a line to standard output and waits for a
byte on standard input; again after each further window.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from inference_server.cli import main
from inference_server.segmentation.tiling import WindowJournal


def gate(windows: int) -> None:
    """Let the recording of windows wait."""
    add = WindowJournal.add

    def gated(self: WindowJournal, index: int, found: Any) -> None:
        add(self, index, found)
        if index + 1 >= windows:
            os.write(1, b"window\n")
            os.read(0, 1)

    WindowJournal.add = gated  # type: ignore[method-assign]


if __name__ == "__main__":
    # What a shell starts in the background ignores interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    gate(int(sys.argv[1]))
    main(sys.argv[2:])
