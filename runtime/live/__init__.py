"""A camera or a stream, answered while it goes on, in rolling windows.

clock      the time, which tests can set
sources    what a name means: a file, a URL, a camera, a pipe; opened with time-outs
arrivals   packets with the time at which they came; a file is paced like a camera
windows    rolling windows
reading    packets -> the frames and sound of each window; what comes too late is dropped and counted
session    the worker process, reconnecting, the newest window first, the network
live       ``Live``: all of it, for programs that use threads
"""
