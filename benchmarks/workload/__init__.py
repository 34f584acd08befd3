"""What is run: the synthetic test sets, video clips of their lengths, and processed data sets on disk."""
