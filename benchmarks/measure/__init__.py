"""What is timed and how: one sample at a time, other scenarios, whole programs, and the rounds of a run."""
