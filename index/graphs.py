"""OpenVINO, for everyone here who uses it: as it is, but for its usage reports.

Importing openvino sends an event to Google Analytics unless the user has opted out; a search that is to work offline
makes no call that nobody asked for. It falls back to a stub of its own where its module for that is not there.
"""

from __future__ import annotations

import sys

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: as if it were not installed

import openvino as ov  # noqa: E402

__all__ = ["ov"]
