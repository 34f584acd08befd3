"""A camera or a stream -> the segments of rolling windows, as it goes on; what a worker process does of ``live``.

clock      the time, which tests can set
sources    what a name means: a file, a URL, a camera, a pipe; opened with time-outs
arrivals   packets with the time at which they came; a file is paced like a camera
raw        frames and samples that are sent as they are
windows    rolling windows
reading    packets -> the frames and sound of each window; what comes too late is dropped and counted
segments   the same as ``Segment``s
"""
