"""OpenVINO, for everyone here who uses it: as it is, but for its usage reports and for a trap when threads begin.

Importing openvino sends an event to Google Analytics unless the user has opted out; a search that is to work offline
makes no call that nobody asked for. It falls back to a stub of its own where its module for that is not there.
"""

from __future__ import annotations

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: as if it were not installed

import numpy as np  # noqa: E402
import openvino as ov  # noqa: E402

# The first look at a tensor's data makes a table inside OpenVINO, which lets go of Python's lock meanwhile: two threads
# whose first looks meet wait for each other, and all of Python with them, for ever. So the first look is taken here.
_ = ov.Tensor(np.zeros(1, dtype=np.int64)).data

__all__ = ["ov"]
