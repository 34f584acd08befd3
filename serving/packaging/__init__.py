"""``mmx package``: a bundle for other people's servers: Triton, Docker."""
