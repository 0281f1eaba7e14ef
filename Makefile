# make demo        the gradient study and the auditor's verdicts and three trainings side by side, a minute on two cores
# make test        format, lint, types, tests and documentation examples, and which ten took longest
# make lint        format, lint and types
# make test-quick  format, lint, types, and the tests of kernel, contract, oracle and repository: while you work
# make test-exhaustive  what make test has a sample of: all cards, all dtypes and gammas of the ledger, the whole zoo, every product of parameters; an hour on two cores by estimate
# make test-wheel  the built wheel with torch alone
# make test-torch TORCH=2.6.0   losses, numerics, guard and compilation with that release of torch
# make docs        the documentation site, into site/, with warnings as errors
# make bench       what losses, guard, boosting and JAX cost beside what they replace, alone and beside other work, what a device without a kernel is asked to do, and the memory of the loss of a linear map; make bench-quick, two minutes: the losses
# make bench-gpu   the losses on a GPU: whether they are right and what they cost, 400 seconds; PYTHON=python3 of an environment that has torch
# make bench-training  what a training, its record and a second job cost
# make reproduction    the committed report from the committed records; PUBLISHED=FOLDER beside the paper's
# make fuzz        100,000 random calls of the losses against float64, minutes on two cores; CALLS=1000 SEED=7 for others
# make ledger      measure the accuracy anew, two minutes; refuses what got worse

PYTHON ?= python3
CALLS ?= 100000
SEED ?= 0
VENV := .venv
BIN := $(VENV)/bin
WHEEL_VENV := .venv-wheel
TORCH_VENV := .venv-torch-$(TORCH)-$(notdir $(PYTHON))
# A torch for the bare wheel that installs quickly; the oldest, 2.6, is for test-torch.
WHEEL_TORCH := torch==2.13.0

# The tests of what changes most often.
QUICK_TESTS := tests/numerics tests/losses/test_contract.py tests/audit/test_oracle.py tests/test_repository.py

.PHONY: demo docs lint test test-exhaustive test-quick test-torch test-wheel fuzz ledger bench bench-quick bench-gpu bench-training reproduction clean

# In a venv of its own, which has what the demo needs and nothing else.
DEMO_VENV := .venv-demo
demo: $(DEMO_VENV)/installed
	$(DEMO_VENV)/bin/parfocal demo

$(DEMO_VENV)/installed: pyproject.toml constraints.txt
	test -d $(DEMO_VENV) || $(PYTHON) -m venv $(DEMO_VENV)
	$(DEMO_VENV)/bin/pip install --quiet --constraint constraints.txt --editable ".[experiments]"
	touch $@

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: lint
	$(BIN)/pytest --durations=10 --durations-min=1

test-exhaustive: $(VENV)/installed
	$(BIN)/pytest -m exhaustive --durations=10 --durations-min=1

test-quick: lint
	$(BIN)/pytest $(QUICK_TESTS)

# Without a network. The examples of the gallery are run, once for each change of theirs.
docs: $(VENV)/installed
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs site
	$(BIN)/python tests/look_at_site.py site

# It says how one call is drawn again: `python tests/fuzz.py --seed S --call I`.
fuzz: $(VENV)/installed
	$(BIN)/python tests/fuzz.py --seed $(SEED) --calls $(CALLS)

ledger: $(VENV)/installed
	$(BIN)/python ledger/measure.py

bench: $(VENV)/installed
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/launches.py
	$(BIN)/python benchmarks/company.py
	$(BIN)/python benchmarks/overheads.py
	$(BIN)/python benchmarks/linear.py

bench-quick: $(VENV)/installed
	$(BIN)/python benchmarks/losses.py --quick

# With the torch that is there: a GPU's driver and a wheel have to fit, and nothing is downloaded.
bench-gpu:
	PYTHONPATH=src $(PYTHON) benchmarks/gpu.py

bench-training: $(VENV)/installed
	$(BIN)/python benchmarks/training.py

reproduction: $(VENV)/installed
	$(BIN)/parfocal report docs/reproduction/records --out docs/reproduction $(if $(PUBLISHED),--published $(PUBLISHED))

# By hand: each release is a download of up to ten minutes. The venv stays, for the next time.
test-torch:
	test -n "$(TORCH)" || { echo "usage: make test-torch TORCH=2.6.0 [PYTHON=python3.12]"; exit 2; }
	test -d $(TORCH_VENV) || $(PYTHON) -m venv $(TORCH_VENV)
	PIP_CONSTRAINT=/dev/null $(TORCH_VENV)/bin/python -m pip install --quiet "torch==$(TORCH)" --editable ".[tests]"
	$(TORCH_VENV)/bin/python -c "import sys, torch; print('Python', sys.version.split()[0], 'torch', torch.__version__)"
	$(TORCH_VENV)/bin/python -m pytest --quiet tests/losses tests/numerics tests/guard

test-wheel: $(VENV)/installed
	rm -rf dist $(WHEEL_VENV)
	$(BIN)/python -m build --wheel --outdir dist .
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/pip install --quiet "$(WHEEL_TORCH)" dist/parfocal-*.whl
	cd dist && ../$(WHEEL_VENV)/bin/python ../tests/bare_wheel.py

# Not compiled to bytecode: most of what is installed is never imported.
$(VENV)/installed: pyproject.toml constraints.txt
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) $(DEMO_VENV) $(WHEEL_VENV) .venv-torch-* dist build
