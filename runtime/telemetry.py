"""Nothing leaves the user's machine: telemetry of libraries is turned off before they are imported.

``mmx.runtime`` calls this when it is imported, and every other package of mmx imports ``mmx.runtime`` first: the
command, the server, its workers and the library are alike.
"""

from __future__ import annotations

import os
import sys

# ONNX Runtime keeps a device id in the user's cache and looks up a host; Ray and the client of the Hub report usage.
_SWITCHES = {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
# OpenVINO reports unless a file in the user's home forbids it. Without this module it uses a stub of its own.
_REPORTER = "openvino_telemetry"


def turn_off() -> None:
    """Turn the telemetry of ONNX Runtime, OpenVINO, Ray and huggingface_hub off, here and in child processes."""
    os.environ.update(_SWITCHES)
    if _REPORTER not in sys.modules:
        sys.modules[_REPORTER] = None  # type: ignore[assignment]  # Python's way to make an import fail
