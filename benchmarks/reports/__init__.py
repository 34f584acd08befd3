"""What a run found: as data, as tables and charts, and against an earlier run."""
