# make demo      install into .venv and run the examples
# make test      install what development needs as well, and run every check
# make bench     measure, beside others that start ranks; tables and a plot go to build/bench
# make soak      hundreds of launches: the right culprit each time, and none that stalls; every failure, spawned;
#                20 times 40 tests on workers of pytest-xdist; random tests with random faults for SOAK_MINUTES (10)
# make compare   the same failures under this plugin and under its peers; writes docs/comparison.md
# make docs      build the documentation into build/docs, in an environment without torch
# make migrating the tests of the migration guides as they were, under what they were written for;
#                DEEPSPEED_TESTS names the directory `tests` of a checkout of DeepSpeed
# make dist      build sdist and wheel into dist, and check them in an environment of their own
# make changelog move the fragments of changelog.d into CHANGELOG.md, under the version of pyproject.toml
# make help      print this
# make clean     remove .venv and what tools left behind
#
# Another interpreter: make clean, then make demo PYTHON=python3.13

.POSIX:
.PHONY: demo test bench soak compare docs migrating dist changelog help clean

PYTHON = python3
VENV = .venv
DOCS = .venv-docs
RUN = $(VENV)/bin/python -m
INSTALL = $(RUN) pip install -qq --disable-pip-version-check -c constraints.txt

# In the order in which a newcomer reads them.
EXAMPLES = examples/test_dist_sum.py examples/test_ddp_step.py examples/test_script.py examples/test_checkpoint.py \
	examples/test_failing_rank.py examples/test_restart.py examples/test_nodes.py examples/test_elastic_training.py \
	examples/test_together.py
FAILING = examples/failing/test_rank_2_fails.py

demo: $(VENV)/.installed
	@$(RUN) pytest -v $(EXAMPLES)
	@printf '\nThe next test fails on rank 2 of 4, on purpose. This is the report:\n\n'
	@status=0; $(RUN) pytest $(FAILING) || status=$$?; \
	if [ $$status -ne 1 ]; then echo "$(FAILING): pytest exited with $$status, expected 1" >&2; exit 1; fi
	@printf '\nThat failure was expected: the demo is complete.\n'

# Every check runs, whatever those before it found. Three workers: many tests wait for others.
test: $(VENV)/.installed-development
	@status=0; \
	$(RUN) ruff check || status=1; \
	$(RUN) ruff format --check || status=1; \
	$(RUN) mypy || status=1; \
	$(RUN) towncrier build --draft --version next || status=1; \
	$(RUN) pytest -n 3 --dist loadfile -m 'not soak' tests examples --ignore=examples/failing || status=1; \
	exit $$status

bench: $(VENV)/.installed-development
	@$(INSTALL) --group bench
	@$(VENV)/bin/python benchmarks/run.py --output build/bench

soak: $(VENV)/.installed-development
	@status=0; \
	$(RUN) pytest -rP soak || status=1; \
	$(RUN) pytest -m soak tests || status=1; \
	OWN_SERVERS=1 $(RUN) pytest -n 3 --dist loadfile -m 'not soak' tests/integration || status=1; \
	FUZZ_EXAMPLES=2000 $(RUN) pytest tests/unit/test_fuzz_channel.py tests/integration/test_fuzz_reports.py || status=1; \
	CONFORMANCE_SPAWN=all $(RUN) pytest tests/conformance/test_conformance.py -k spawn || status=1; \
	MIXED_TIMES=20 $(RUN) pytest tests/integration/test_xdist.py -k forty || status=1; \
	exit $$status

compare: $(VENV)/.installed-development
	@$(VENV)/bin/python benchmarks/peers_environment.py
	@$(RUN) tests.compare

# Links inside are checked, and a warning is an error. -n: names of code too.
docs: $(DOCS)/.installed
	@$(DOCS)/bin/python -m sphinx -n -W --keep-going -q -d build/doctrees docs build/docs
	@echo "The documentation is in build/docs/index.html."

migrating: $(VENV)/.installed-development
	@test -x .venv-migrating/bin/python || $(PYTHON) -m venv .venv-migrating
	@echo "Installing what the tests were written for into .venv-migrating, which takes a while the first time ..."
	@.venv-migrating/bin/python -m pip install -qq --disable-pip-version-check \
		-r tests/examples/migrating/requirements.txt
	@$(RUN) pytest -m soak -rs tests/examples/test_migrating.py

dist: $(VENV)/.installed-development
	@$(INSTALL) --group release
	@rm -rf dist
	@$(RUN) build --outdir dist .
	@$(RUN) twine check --strict dist/*
	@$(VENV)/bin/python release/check.py dist

changelog: $(VENV)/.installed-development
	@$(RUN) towncrier build --yes --version "$$($(VENV)/bin/python -c 'import pytest_elastic; print(pytest_elastic.__version__)')"

# The lines at the beginning of this file.
help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

clean:
	rm -rf $(VENV) $(DOCS) .venv-peers .venv-migrating .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp file stands for an installation: it is made again when the requirements have changed.
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(VENV)/bin/python || { echo "Creating $(VENV) ..."; $(PYTHON) -m venv $(VENV); }
	@echo "Installing pytest-elastic, torch and etcd into $(VENV), which takes a while the first time ..."
	@$(INSTALL) 'pip>=25.1'
	@# torch warns where there is no numpy, and a warning is an error in the tests of this project.
	@$(INSTALL) -e '.[etcd]' numpy
	@touch $@

$(VENV)/.installed-development: $(VENV)/.installed
	@echo "Installing the tools for development into $(VENV) ..."
	@$(INSTALL) --group test --group lint
	@touch $@

$(DOCS)/.installed: pyproject.toml constraints.txt
	@test -x $(DOCS)/bin/python || { echo "Creating $(DOCS) ..."; $(PYTHON) -m venv $(DOCS); }
	@$(DOCS)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt 'pip>=25.1'
	@$(DOCS)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt --group docs
	@$(DOCS)/bin/python -m pip install -qq --disable-pip-version-check --no-deps -e .
	@touch $@
