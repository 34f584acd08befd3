"""``mmx batch``: many files -> Parquet, here or on a Ray cluster."""
