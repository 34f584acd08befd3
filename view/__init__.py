"""The answers of files as people look at them: a page with player and timeline, and a video drawn over."""
