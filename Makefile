# Each target makes the virtual environment that it needs, on Python 3.11-3.13.
# Another interpreter: make test PYTHON=python3.12 VENV=.venv312

PYTHON ?= python3
VENV ?= .venv
WORKDIR ?= runs/quickstart

PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
RUN = $(VENV)/bin/python

.PHONY: install install-torch quickstart picture test quick lint format lock clean

install: $(VENV)/.installed

$(VENV)/.installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit((3, 11) > sys.version_info or \
	  sys.version_info >= (3, 14))' || { echo '$(PYTHON) must be Python 3.11,' \
	  '3.12 or 3.13; say, for example: make PYTHON=python3.12'; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -r requirements.txt
	$(PIP) install --quiet --no-deps -e .
	@touch $@

install-torch: $(VENV)/.installed-torch

# PyTorch and its ports, for the tests of crosscheck and convert. No lock: on
# Linux a universal one would hold the gigabytes of the CUDA build. timm asks
# for torchvision, which these tests do not need.
$(VENV)/.installed-torch: $(VENV)/.installed
	$(PIP) install --quiet --constraint requirements.txt -e '.[torch]' \
	  transformers==5.23.0
	$(PIP) install --quiet --no-deps timm==1.0.31
	@touch $@

# Trains on the digits that scikit-learn ships; again: continues or shows.
quickstart: install
	$(RUN) -m vit_jax_repro.main --config=configs/quickstart.py \
	  --workdir=$(WORKDIR)

# The picture in README.md.
picture: quickstart
	$(RUN) examples/quickstart_picture.py $(WORKDIR) docs/quickstart.png

# Two processes, each with whole modules; more would want more memory.
test: install-torch
	$(RUN) -m pytest -n 2 --dist loadfile

quick: install
	$(RUN) -m pytest -n 2 --dist loadfile -m quick

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: install
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# Compiles requirements.txt anew, for Python 3.11-3.13 on every platform.
lock: install
	$(PIP) install --quiet uv
	$(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 \
	  --upgrade --extra dev --no-emit-index-url --no-annotate \
	  --custom-compile-command 'make lock' \
	  pyproject.toml --output-file requirements.txt

clean:
	rm -rf $(VENV) build *.egg-info
