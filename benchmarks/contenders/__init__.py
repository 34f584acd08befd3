"""Who takes part: mmx's bundles on its backends, the peers, and the two ways from a video file to logits."""
