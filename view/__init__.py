"""The answers of files as people look at them: a page with player and timeline, and a video drawn over."""

import mmx.runtime  # noqa: F401 (first: it turns the telemetry of libraries off)
