# Two lanes: Python 3.12 with the newest megatron-core, whose trainer the demo and the tests run, and
# Python 3.11 with megatron-core 0.16.1, which has none. Versions between run a part of the tests, and
# so do Python 3.10 and 3.13, on which packs are planned and data are prepared.

export MEGATRON_PACKING_WERROR ?= 1
# Processes that share the tests, a file of tests to each; 0 runs them in one.
JOBS ?= 2
PYTEST = -m pytest -n $(JOBS) --dist loadfile

DOCS ?= build/docs

.PHONY: demo docs test test-all coverage test-scripts test-3.11 second-lane test-older-cores test-newest test-other-pythons test-wheels \
  lint sanitize aarch64 clang wheel sbom environment-3.10 environment-3.11 environment-3.12 \
  environment-3.13 clean

# Processes share the cores, and a thread of torch that has no work spins on one.
test test-all coverage test-scripts test-3.11 second-lane test-older-cores test-newest test-other-pythons sanitize: \
  export OMP_NUM_THREADS ?= 1

DEMO ?= .demo

demo: environment-3.12 ## Train on real conversations, padded and packed, and compare
	.venv-3.12/bin/python examples/demo.py $(DEMO)

test: environment-3.12 ## Run the tests, without those that prove at length (minutes)
	.venv-3.12/bin/python $(PYTEST) -m "not slow"

test-all: environment-3.12 ## Run all tests
	.venv-3.12/bin/python $(PYTEST)

coverage: environment-3.12 ## Run all tests but those of scripts, and print the share of lines that they ran
	tools/measure_coverage.sh .venv-3.12/bin/python

test-scripts: environment-3.12 ## Run the tests of examples and benchmarks
	.venv-3.12/bin/python $(PYTEST) tests/examples tests/benchmarks

test-3.11: environment-3.11 ## Run all tests with Python 3.11 and megatron-core 0.16.1
	.venv-3.11/bin/python $(PYTEST)

# What another megatron-core, Bridge or Transformer Engine may change. Python 3.10, 3.12 and 3.13 test the rest.
# Left out is what takes a minute each: the memory of exports, and 200 packs of which 40 are compared.
second-lane: environment-3.11 ## Run what Python 3.11 and megatron-core 0.16.1 may change
	.venv-3.11/bin/python $(PYTEST) $(addprefix tests/,thd stream megatron bridge te hybrid interchange flops probe) \
	  -k "not memory_does_not_grow and not many_packs_has_the_losses_and_gradients_that_it_has_alone[200"

test-older-cores: environment-3.12 ## Prove packing with megatron-core 0.17.1 and 0.18.2
	tools/test_older_cores.sh .venv-3.12/bin/python

MEGATRON_LM ?=
test-newest: environment-3.12 ## Test with the newest megatron-core and with MEGATRON_LM, a checkout; nightly
	tools/test_newest.sh .venv-3.12/bin/python $(MEGATRON_LM)

docs: environment-3.12 ## Build the documentation into build/docs, with warnings as errors
	NO_MKDOCS_2_WARNING=1 .venv-3.12/bin/python -W ignore -m mkdocs build --strict --site-dir $(DOCS)

# What needs neither torch nor Megatron, less tests of the core alone that take long, as it is the same.
LIGHT_TESTS = $(addprefix tests/,core records schemas chat tokenizers tokenize index planning corpus commands) \
  -m "not slow and not long_plan"

test-other-pythons: environment-3.10 environment-3.13 ## Test planning and preparing data with Python 3.10 and 3.13
	.venv-3.10/bin/python $(PYTEST) $(LIGHT_TESTS)
	.venv-3.13/bin/python $(PYTEST) $(LIGHT_TESTS)

test-wheels: environment-3.10 environment-3.11 environment-3.12 environment-3.13 ## Build the wheel of each Python and plan packs with it where nothing compiles
	for version in 3.10 3.11 3.12 3.13; do .venv-$$version/bin/python -m pytest tests/test_wheel.py || exit; done

lint: environment-3.12 ## Check style and types
	.venv-3.12/bin/python -m ruff check .
	.venv-3.12/bin/python -m ruff format --check .
	.venv-3.12/bin/python -m mypy
	.venv-3.12/bin/python -c "import sys, clang_format as c; sys.exit(c.clang_format())" \
	  --dry-run -Werror $$(find csrc -name '*.[ch]pp')

sanitize: environment-3.12 ## Run the planner's tests under the C++ sanitizers
	tools/sanitize.sh .venv-3.12/bin/python

aarch64: environment-3.11 ## Cross-compile the wheel for ARM64 and compare its plans under qemu
	tools/check_aarch64.sh .venv-3.11/bin/python

clang: environment-3.12 ## Build the planner with clang and libc++ and compare its plans
	tools/check_clang.sh .venv-3.12/bin/python

wheel: environment-3.12 ## Build a wheel for this machine into dist
	.venv-3.12/bin/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

sbom: environment-3.12 ## Write a CycloneDX bill of materials of the run-time packages into dist
	tools/make_sbom.sh .venv-3.12/bin/python dist/sbom.json

environment-3.10 environment-3.11 environment-3.12 environment-3.13: environment-%:
	@tools/make_environment.sh $*

clean:
	rm -rf .venv-3.1[0-3] .demo .coverage build *.egg-info megatron_packing/*.so megatron_packing/_strategy.py
