import mmx.runtime  # noqa: F401 (first: it turns the telemetry of libraries off)
