"""INT8 variants of a bundle, held to the accuracy and the speed of what they would replace."""

import mmx.runtime  # noqa: F401 (first: it turns the telemetry of libraries off)
