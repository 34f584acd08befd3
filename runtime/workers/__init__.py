"""The one confined reader of media: worker processes that turn untrusted files into ``Segment``s.

task      what to read, and what a file may cost
process   the worker process: decodes, finds faces, computes mel, tokenises
worker    one such process as its parent sees it
pool      several of them for asyncio; ``blocking`` for threads
wire, segments   how segments travel: plain data that is checked on arrival
"""

PARTS = ("tokenizer/", "faces/")  # what a worker needs of a bundle
