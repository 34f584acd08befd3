"""Whose face is it: detections linked into people, and which of them a prediction is about."""

from mmx.runtime.people.choice import People
from mmx.runtime.people.tracker import Tracker

__all__ = ["People", "Tracker"]
