"""Layer by layer: a bundle under an engine's own profiler, against what the machine can do at most."""
