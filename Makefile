# make demo    the whole thing on this machine, on a real broker: needs only Python 3.11+
# make test    lint, types and every test against a real broker
# make faults  the tests that are too long for every time, then fresh schedules of faults for so many MINUTES
# make histories  COUNT histories of concurrent appends under faults, checked for linearizability
# make bench   every benchmark (an hour and a half and more, on an idle machine), or only NAME, into bench/results, and the plots
PYTHON ?= python3
MINUTES ?= 30
COUNT ?= 100
# Not ?=, because some systems have a NAME in the environment.
NAME = throughput matrix ceiling at-least-once latency append alternatives takeover restart recovery micro growth verify
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install

.PHONY: demo test faults histories bench lint clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	$(BIN)/sequencer demo

test: lint
	$(BIN)/pytest -q -m "not long"

faults: $(VENV)/installed-dev
	$(BIN)/pytest -q -m long
	$(BIN)/python -m tests.faults --minutes $(MINUTES)

histories: $(VENV)/installed-dev
	$(BIN)/python -m tests.linearizability --count $(COUNT)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

bench: $(VENV)/installed-dev
	@failed=; for name in $(NAME); do \
		echo "python -m bench $$name"; \
		$(BIN)/python -m bench $$name --json bench/results/$$name.json || \
			{ [ $$? -ne 130 ] || exit 130; failed="$$failed $$name"; }; \
	done; \
	$(BIN)/python -m bench plots && if [ "$$failed" ]; then echo "error: failed:$$failed" >&2; exit 1; fi

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage htmlcov
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps make every later run skip the installation until pyproject.toml changes.
$(VENV)/installed: pyproject.toml $(VENV)/made
	$(PIP) -e '.[broker]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml $(VENV)/made
	$(PIP) -e '.[dev]'
	@touch $(VENV)/installed $@

$(VENV)/made:
	@command -v $(PYTHON) >/dev/null || { echo "error: $(PYTHON) not found; try make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $$($(PYTHON) --version) is too old, 3.11 or later is needed; try make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot make virtual environments (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@
