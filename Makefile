# Each target creates the virtual environment that it needs, with Python
# 3.11-3.13. To choose an interpreter: make test PYTHON=python3.12 VENV=.venv312
# An environment that exists, such as one of `uv venv -p 3.13`, is used.

PYTHON ?= python3
VENV ?= .venv
# Files of the versions that are installed. The lowest ones that work:
# make quick VENV=.venv-oldest \
#   TESTED='requirements-oldest.txt requirements-dev.txt'
TESTED ?= requirements.txt requirements-dev.txt
CONSTRAINTS = $(addprefix --constraint ,$(TESTED))
WORKDIR ?= runs/quickstart
HTML ?= runs/notebooks
SITE ?= site

# For `make accelerators`: a Python that runs the newest JAX, and the compilers
# of that JAX. If PYTHON is given, it is used unchanged.
COMPILERS ?= .venv-accelerators
ifeq ($(origin PYTHON),file)
NEW_PYTHON = $(shell .ci/python 3.13 3.12)
else
NEW_PYTHON = $(PYTHON)
endif
LIGHT ?= .venv-without-tensorflow
LIBTPU = libtpu==0.0.50.1
CUDA = jax-cuda12-plugin==0.12.0.1 jax-cuda12-pjrt==0.12.0.1 \
  nvidia-cudnn-cu12==9.28.0.42

# The fast subset of the tests. QUICK=quick has its slower ones, too.
QUICK ?= quick and not slow

PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
# Prints how long a command takes that is silent itself.
TICK = scripts/ticking
RUN = $(VENV)/bin/python
CONVERT = $(RUN) -m nbconvert --log-level=ERROR \
  --CoalesceStreamsPreprocessor.enabled=True

.PHONY: install install-torch install-export install-buckets install-notebooks \
  install-docs quickstart pictures notebooks docs strip test exact buckets soak \
  quick without-tensorflow accelerators install-compilers lint format lock clean

install: $(VENV)/.installed

# The interpreter of an environment that exists, unless PYTHON is given.
ifeq ($(origin PYTHON),file)
BASE_PYTHON = $(firstword $(wildcard $(VENV)/bin/python) $(PYTHON))
else
BASE_PYTHON = $(PYTHON)
endif

$(VENV)/.installed: $(TESTED) pyproject.toml
	@base=$(BASE_PYTHON); \
	$$base -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
	  || { echo "$$base must be Python 3.11, 3.12 or 3.13; get one by" \
	  "\`uv venv -p 3.13 $(VENV)\`, or name one: make PYTHON=python3.12"; exit 1; }; \
	test $$base = $(VENV)/bin/python || $$base -m venv $(VENV)
	@$(RUN) -c 'import pip' 2>/dev/null || $(RUN) -m ensurepip
	@echo 'installing the packages into $(VENV), which takes minutes'
	@$(TICK) 'installing' $(PIP) install --quiet $(CONSTRAINTS) -e '.[dev,text]'
	@touch $@

install-torch: $(VENV)/.installed-torch

# PyTorch and its ports, for the tests of crosscheck and convert. They are not
# locked: on Linux a universal lock would hold the gigabytes of the CUDA build.
# timm requires torchvision, which these tests do not need.
$(VENV)/.installed-torch: $(VENV)/.installed
	@$(TICK) 'installing PyTorch' \
	  $(PIP) install --quiet $(CONSTRAINTS) -e '.[torch]' \
	  transformers==5.23.0
	@$(TICK) 'installing timm' $(PIP) install --quiet --no-deps timm==1.0.31
	@touch $@

install-export: $(VENV)/.installed-export

# For tests/exporting. pyproject.toml explains the second step.
$(VENV)/.installed-export: $(VENV)/.installed
	@$(TICK) 'installing ONNX' \
	  $(PIP) install --quiet $(CONSTRAINTS) -e '.[export]'
	@$(TICK) 'installing jax2onnx' \
	  $(PIP) install --quiet --no-deps jax2onnx==0.17.1
	@touch $@

install-buckets: $(VENV)/.installed-buckets

$(VENV)/.installed-buckets: $(VENV)/.installed
	@$(TICK) 'installing gcsfs and a storage emulator' \
	  $(PIP) install --quiet $(CONSTRAINTS) -e '.[gcs,buckets]'
	@touch $@

install-notebooks: $(VENV)/.installed-notebooks

$(VENV)/.installed-notebooks: $(VENV)/.installed
	@$(TICK) 'installing the notebook tools' \
	  $(PIP) install --quiet $(CONSTRAINTS) -e '.[notebooks]'
	@touch $@

install-docs: $(VENV)/.installed-docs

$(VENV)/.installed-docs: $(VENV)/.installed-notebooks
	@$(TICK) 'installing the tools of the documentation site' \
	  $(PIP) install --quiet $(CONSTRAINTS) -e '.[docs]'
	@touch $@

# Trains on the digits that scikit-learn ships. A second call continues the run,
# or shows its result if it is finished.
quickstart: install
	$(RUN) -m vit_jax_repro.main --config=configs/quickstart.py \
	  --workdir=$(WORKDIR)

# Draws the pictures in README.md.
pictures: quickstart
	$(RUN) examples/readme_pictures.py $(WORKDIR) docs

# Runs all notebooks; $(HTML) gets them with their outputs, also as HTML.
# LESSONS_SIZE=short only checks that they run; LESSONS_SIZE=full needs a GPU.
notebooks: install-torch install-notebooks
	@for notebook in notebooks/*.ipynb; do \
	  $(TICK) "running $$notebook" $(CONVERT) --execute --to notebook \
	    --output-dir=$(HTML) $$notebook || exit; done
	@$(TICK) 'rendering the notebooks' $(CONVERT) --to html $(HTML)/*.ipynb

# Builds the documentation site in $(SITE), with the notebooks in $(HTML), and
# opens its pages in Chromium if that is installed.
docs: install-docs
	@test -e $(HTML)/08_further.ipynb || \
	  $(MAKE) notebooks LESSONS_SIZE=$${LESSONS_SIZE:-short}
	rm -rf docs/notebooks
	@$(TICK) 'rendering the notebooks' $(CONVERT) --to markdown \
	  --output-dir=$(CURDIR)/docs/notebooks $(HTML)/*.ipynb
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict --site-dir=$(SITE)
	@$(TICK) 'opening the pages' $(RUN) scripts/check_site.py $(SITE)

# Removes the outputs of the notebooks, before a commit.
strip: install-notebooks
	$(CONVERT) --clear-output --inplace notebooks/*.ipynb

# Lists the modules that compare with the original's numbers.
EXACT = grep -rl --include='test_*.py' as_users_compile tests

# Runs all tests. Those that compare with the original's numbers come last and
# are compiled as users compile, the others faster. Three processes on two cores,
# because many tests wait for other processes. Each takes whole modules, so that
# compiled programs are shared within one.
test: install-torch install-export
	$(RUN) -m pytest -n 3 --dist loadfile --no-loadscope-reorder \
	  $$($(EXACT) | sed 's/^/--ignore=/')
	$(MAKE) exact

# Runs only the tests that compare with the original's numbers.
exact: install
	files=$$($(EXACT)) && \
	  COMPILE_AS_USERS=1 $(RUN) -m pytest -n 2 --dist loadfile $$files

# Trains in a bucket of a storage emulator, and reads from it.
buckets: install-buckets
	$(RUN) -m pytest -n 2 --dist loadfile buckets

# Stops runs at random moments in every way, and compares what they end with.
# SOAK_KILLS=10 kills ten times instead of a hundred.
soak: install
	$(RUN) -m pytest soak

quick: install
	$(RUN) -m pytest -n 2 --dist loadfile --no-loadscope-reorder \
	  -m '$(QUICK)'

# Runs the commands that need no TensorFlow in an environment that lacks it, with
# the packages that Python 3.14 gets.
without-tensorflow: $(LIGHT)/.installed
	$(LIGHT)/bin/python -m pytest -n 2 environments

$(LIGHT)/.installed: $(TESTED) pyproject.toml
	$(or $(NEW_PYTHON),$(PYTHON)) -m venv $(LIGHT)
	$(LIGHT)/bin/python -c 'import tomllib; \
	  project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
	  print(*(each for each in project["dependencies"] \
	  if "python_version" not in each), sep="\n")' > $(LIGHT)/wanted.txt
	@$(TICK) 'installing the packages without TensorFlow' \
	  $(LIGHT)/bin/python -m pip --disable-pip-version-check install --quiet \
	  $(CONSTRAINTS) -r $(LIGHT)/wanted.txt packaging pytest pytest-xdist
	@$(TICK) 'installing this package' \
	  $(LIGHT)/bin/python -m pip --disable-pip-version-check install --quiet \
	  --no-deps -e .
	@touch $@

# Compiles runs for TPUs and NVIDIA cards, which this machine need not have. It
# has an environment of its own, because the compilers take gigabytes and need
# Python 3.12. ALL=1 compiles all models in full size for all targets, which
# takes hours.
accelerators: install-compilers
	@if [ -n '$(NEW_PYTHON)' ]; then \
	  ALL=$(ALL) $(COMPILERS)/bin/python -m pytest -n 2 accelerators; fi

install-compilers:
	@if [ -n '$(NEW_PYTHON)' ]; then \
	  $(MAKE) --no-print-directory $(COMPILERS)/.installed; else \
	  echo 'NOT CHECKED: no Python 3.12 or 3.13 here; install one, or name it:' \
	    'make accelerators PYTHON=/path/to/python3.13'; fi

$(COMPILERS)/.installed: $(TESTED) pyproject.toml
	@$(NEW_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 12))' || { \
	  echo '$(NEW_PYTHON) must be Python 3.12 or 3.13'; exit 1; }
	$(NEW_PYTHON) -m venv $(COMPILERS)
	@$(TICK) 'installing' \
	  $(COMPILERS)/bin/python -m pip --disable-pip-version-check install --quiet \
	  $(CONSTRAINTS) -e '.[dev,tpu]' $(LIBTPU)
	@$(TICK) 'installing the compilers of NVIDIA cards' \
	  $(COMPILERS)/bin/python -m pip --disable-pip-version-check install --quiet \
	  --no-deps $(CUDA)
	@touch $@

lint: install
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m ty check --python $(VENV)
	$(RUN) scripts/count_odd_words.py
	$(RUN) scripts/draw_rooms.py --check

format: install
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

# Compiles the versions again, for Python 3.11-3.14 on every platform: what
# running needs, what the extras need besides, and the lowest of what running
# needs. UPGRADE= keeps the versions as far as possible.
UPGRADE ?= --upgrade
COMPILE = $(TICK) 'resolving the versions' \
  $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 \
  --no-emit-index-url --no-annotate --custom-compile-command 'make lock' \
  pyproject.toml
lock: install
	@$(TICK) 'installing uv' $(PIP) install --quiet uv
	$(COMPILE) $(UPGRADE) --output-file requirements.txt
	cat requirements.txt requirements-dev.txt > $(VENV)/all.txt
	$(COMPILE) $(UPGRADE) --extra dev --extra docs --extra export \
	  --extra notebooks --extra text \
	  --constraint requirements.txt --output-file $(VENV)/all.txt
	{ grep '^#' requirements.txt; grep -vxFf requirements.txt $(VENV)/all.txt; \
	  } > requirements-dev.txt
	$(COMPILE) --resolution lowest-direct --constraint requirements-dev.txt \
	  --upgrade --output-file requirements-oldest.txt

clean:
	rm -rf $(VENV) build *.egg-info
