"""The models: SAM 1, SAM 2 and SAM 3. No other package imports torch.

Threads of a forward pass wait for each other hundreds of times. By default GNU OpenMP waits busily
for about a millisecond before it sleeps, so on cores that other work shares, or under a CPU quota
of a container, waiting threads take the time of those they wait for. Measured with 15 busy
processes on two cores: an encode of the demo on two threads took 0.2 to 10 s by default, 0.1 to 0.6
s with this limit, which lasts some 30 microseconds. It has to be set before torch is imported.
"""

from __future__ import annotations

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
