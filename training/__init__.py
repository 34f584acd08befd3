"""Checkpoints worth deploying: data, training and scores."""
