# make demo: from a clean clone to emotions in a real clip.   make test: from a clean clone to the test run.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CODE   := cli models export runtime datasets evaluation benchmarks training calibration serving view
TOP    := api
# Tests whose results come from a CPU's own arithmetic.
NUMERIC := $(addprefix tests/,calibration export folding media models precision runtime training)
SOURCE := $(TOP) $(CODE) demo studies docs/site_hook.py tests

.PHONY: demo picture test test-all lint types docs bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mmx needs Python 3.11 or later: make PYTHON=python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	# The reference of the face tests. It pins a torch of 2024, so that it comes without what it asks for.
	$(BIN)/pip install -q --disable-pip-version-check --no-deps facenet-pytorch==2.6.0
	@touch $@

demo: $(VENV)/.installed
	$(BIN)/python demo/run.py

# The README's picture of the page. Needs chromium, chromium-driver and what make demo made.
picture: $(VENV)/.installed
	$(BIN)/python demo/picture.py demo-out/trained/ckpt.mmx demo-out/unseen/clips docs/picture.png

# A file of tests runs in one process, beside another file on another core.
test: lint
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist loadfile

test-all: lint
	# Ray is 80 MB that the quick tests do without.
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest
	# The numeric part again as on a CPU with AVX2 alone (75: this machine cannot stand for one, and said why).
	$(BIN)/python tests/older_cpu/run.py $(BIN)/python -m pytest -m "not slow" $(NUMERIC) || test $$? = 75

lint: $(VENV)/.installed types
	$(BIN)/ruff check $(SOURCE)
	$(BIN)/ruff format --check $(SOURCE)
	MYPYPATH=build/types $(BIN)/mypy -m mmx $(foreach d,$(CODE),-p mmx.$(d))
	MYPYPATH=build/types:studies $(BIN)/mypy studies

# The packages under their installed names, for mypy and the API reference (a folder mmx/ in the root would shadow them).
types:
	@rm -rf build/types && mkdir -p build/types/mmx && for d in $(CODE); do ln -sfn ../../../$$d build/types/mmx/$$d; done
	@ln -sfn ../../../$(TOP)/__init__.py build/types/mmx/__init__.py

docs: $(VENV)/.installed types
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.installed
	$(BIN)/mmx bench iemocap

clean:
	rm -rf $(VENV) build demo-out *.egg-info
