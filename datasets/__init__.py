"""Data sets on disk as samples: the processed layout, its splits, and what is cached of them."""

import mmx.runtime  # noqa: F401 (first: it turns the telemetry of libraries off)
