"""A bundle for many people (server), for many files (batch, Ray), and packed for Triton or Docker."""

import mmx.runtime  # noqa: F401 (first: it turns the telemetry of libraries off)
