"""Data sets on disk as samples: the processed layout, its splits, and what is cached of them."""
