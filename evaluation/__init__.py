"""How results are judged: scores, statistics of timings, interleaved timing, and the machine it was done on."""
