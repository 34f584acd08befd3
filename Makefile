# make demo: from a clean clone to emotions in a real clip.   make test: from a clean clone to the test run.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CODE   := cli models export runtime datasets evaluation benchmarks training calibration serving view
SOURCE := $(CODE) demo studies docs/site_hook.py tests
