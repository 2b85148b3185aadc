"""Imports of PyTorch and the models' libraries, which take most of a server's start.

They are imported where they are first needed, in the thread that loads a model, so the server can
answer meanwhile and the command line does not wait for what it does not use.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_LOCK = threading.Lock()
"""Held during imports: `transformers` replaces its own module meanwhile, so two threads that import
it at once get an `ImportError`."""


@contextmanager
def importing() -> Iterator[None]:
    """Import libraries: one thread at a time, and without collecting garbage meanwhile.

    They make half a million objects that stay. The collector would traverse them again and again,
    for a sixth of the time of the imports.
    """
    with _LOCK:
        collecting, modules = gc.isenabled(), len(sys.modules)
        gc.disable()
        try:
            yield
        finally:
            if len(sys.modules) > modules and not gc.get_freeze_count():
                # Moves all objects to the oldest generation, which is rarely traversed.
                gc.freeze()
                gc.unfreeze()
            if collecting:
                gc.enable()
