"""A camera or a stream, answered while it goes on.

session    the worker process, reconnecting, the newest window first, the network
live       ``Live``: the same for programs that use threads
"""
