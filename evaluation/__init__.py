"""How results are judged: scores, statistics of timings, interleaved timing, and the machine it was done on."""

import mmx.runtime  # noqa: F401 (first: it turns the telemetry of libraries off)
