# Two commands for a fresh machine: `make demo` runs the main job, `make test` passes the tests.
# Everything lives in .venv, installed from requirements.lock (exact versions, hashes checked).

PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.PHONY: help env demo test lint bench bench-explore bench-inference bench-retreat bench-sensitivity convergence \
    fit-cost validation retreatment frailty bispecific forecasts sensitivity identifiability sbc recovery notebooks docs lock clean

help:  ## say what each target does
	@sed -n 's/^\([a-z-]*\):.*##/make \1	/p' Makefile | expand -t 24
	@echo "Python 3.12 or newer is taken from PYTHON (now: $(PYTHON)); make PYTHON=/path/to/python3.12 names another."

env: .venv/.stamp  ## make .venv with the locked versions

demo: env  ## the whole job on the bundled cohort, into demo_out
	$(BIN)/reinfuse demo --out demo_out --force

test: env  ## the tests, notebooks included, in two processes
	$(BIN)/pytest --numprocesses 2 --dist loadfile

lint: env  ## style, types and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: .venv-bench/.stamp  ## the simulator beside its peers, about 20 minutes (BENCH=--quick: a smoke test)
	.venv-bench/bin/python benchmarks/bench.py $(BENCH)

bench-inference: .venv-bench/.stamp  ## fits beside numpyro + diffrax, hours (BENCH=--quick: a smoke test)
	.venv-bench/bin/python benchmarks/bench_inference.py $(BENCH)

bench-retreat: env  ## time of a large retreatment experiment (BENCH=100000: so many patients)
	$(BIN)/python benchmarks/bench_retreat.py $(BENCH)

bench-explore: env  ## time of a redraw of the page of a run of your own (RUN=folder of reinfuse fit)
	$(BIN)/python benchmarks/bench_explore.py $(RUN)

bench-sensitivity: env  ## time of a million model runs for Sobol's indices (BENCH=100000: so many)
	$(BIN)/python benchmarks/bench_sensitivity.py $(BENCH)

convergence: env  ## fits of 10 to 300 simulated patients, five seeds; hours, goes on where it was (CONVERGENCE="--cohort FILE")
	$(BIN)/python benchmarks/convergence.py $(CONVERGENCE)

fit-cost: env  ## processor seconds of exploration and sweeps for 10 to 1,000 patients, a quarter of an hour
	$(BIN)/python benchmarks/fit_cost.py

validation: env  ## fit and forecasts of a cohort of your own, into the docs; ten minutes (COHORT=cohort file)
	$(BIN)/reinfuse fit $(COHORT) --out validation_out/all --seed 1 --force
	$(BIN)/python scripts/temporal_holdout.py $(COHORT) --day 30 --out validation_out/early
	$(BIN)/python docs/validation_tables.py validation_out/all validation_out/early

retreatment: env  ## the bundled scenarios on a run of your own, into the docs (RUN=folder of reinfuse fit)
	$(BIN)/reinfuse retreat $(RUN) --out retreatment_out --patients 2000 --force
	$(BIN)/python docs/retreatment_tables.py retreatment_out

frailty: env  ## what the correlation of first and second PFS is made of, into the docs (RUN=folder of reinfuse fit)
	$(BIN)/python docs/frailty_tables.py $(RUN)

bispecific: env  ## settings of the bispecific antibody beside the published series, into the docs (RUN=folder of reinfuse fit)
	$(BIN)/python docs/bispecific_tables.py $(RUN)

forecasts: env  ## a synthetic patient forecast by a run, and its own patients by each other, into the docs (RUN=folder of reinfuse fit)
	$(BIN)/reinfuse forecast $(RUN) fits/data/synthetic_cohort.csv --patient SYN-016 --seen-until 14 --until 365 \
	    --out forecast_out/day_14
	$(BIN)/reinfuse forecast $(RUN) fits/data/synthetic_cohort.csv --patient SYN-016 --seen-until 90 --until 365 \
	    --previous forecast_out/day_14 --out forecast_out/day_90
	$(BIN)/python scripts/forecast_calibration.py $(RUN) --out forecast_out/calibration
	$(BIN)/python docs/forecast_tables.py forecast_out

identifiability: env  ## what a run's data can know, and schedules compared, into the docs (RUN=folder of reinfuse fit)
	$(BIN)/reinfuse identify $(RUN) --out identify_out --force
	$(BIN)/reinfuse design $(RUN) --out design_out --force
	$(BIN)/python docs/identifiability_tables.py identify_out design_out

sensitivity: env  ## what drives the outcomes of a run of your own, into the docs (RUN=folder of reinfuse fit)
	$(BIN)/reinfuse sensitivity $(RUN) --outcome cmax,auc28,nadir,best,pfs1,benefit,transgene,burden --samples 4096 \
	    --out sensitivity_out --force
	$(BIN)/python docs/sensitivity_tables.py sensitivity_out

sbc: env  ## calibration of the whole fit, 200 cohorts; hours, goes on where it was (SBC="--cluster tcp://HOST:PORT")
	$(BIN)/reinfuse calibrate sbc --out sbc_out --resume --docs docs $(SBC)

recovery: env  ## known truths recovered: 20 cohorts of 30 patients, and the population of Stein 2019; hours (SBC=...)
	$(BIN)/reinfuse calibrate recovery --out recovery_out --resume --docs docs $(SBC)
	$(BIN)/reinfuse calibrate stein --out stein_out --resume --docs docs $(SBC)

notebooks: env  ## the notebooks with their outputs, into docs/notebooks; some minutes
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python docs/notebook_pages.py

docs: env  ## the documentation, into docs/_build/html; a warning is an error
	$(BIN)/python docs/prior_tables.py
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

lock: env  ## compute requirements.lock anew from pyproject.toml (UPGRADE=--upgrade for newer versions)
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --python-version 3.12 --generate-hashes \
	    $(lock_options) --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml benchmarks/requirements.txt --constraint requirements.lock --universal \
	    --python-version 3.12 --generate-hashes $(lock_options) --output-file benchmarks/requirements.lock
	echo numbalsoda | $(BIN)/uv pip compile - --no-deps --python-version 3.12 --generate-hashes $(lock_options) \
	    --output-file benchmarks/numbalsoda.lock

clean:  ## remove caches, builds and generated kernels (not .venv, not demo_out)
	rm -rf build dist *.egg-info docs/_build model/kernels/generated
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage htmlcov
	find model fits scripts tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

lock_options = --no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" \
    --quiet $(UPGRADE)

# What PYTHON is: "3.11.7 old", "3.13.0 fine", or nothing where it cannot be run.
found = $(shell "$(PYTHON)" -c 'import sys; v = sys.version_info; sys.stdout.write("%d.%d.%d " % v[:3] + ("fine" if v >= (3, 12) else "old"))' 2>/dev/null)
remedy = reinfuse needs Python 3.12 or newer; name one with: make PYTHON=/path/to/python3.12

.venv/.stamp: requirements.lock pyproject.toml
	$(if $(found),,$(error '$(PYTHON)' was not found or does not run; $(remedy)))
	$(if $(filter old,$(found)),$(error '$(PYTHON)' is Python $(firstword $(found)); $(remedy)))
	@echo "Making .venv with Python $(firstword $(found)) and the packages of requirements.lock: about a minute, 1.3 GB"
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info[:2] != $(venv_version))' || "$(PYTHON)" -m venv --clear .venv
	$(BIN)/python -m pip install -qq --require-hashes --no-deps -r requirements.lock
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	@touch $@

# The peers of the benchmark. numbalsoda has to be built and needs a Fortran compiler: without it the table says so.
.venv-bench/.stamp: benchmarks/requirements.lock benchmarks/numbalsoda.lock pyproject.toml | env
	@echo "Making .venv-bench with the packages of benchmarks/requirements.lock: about two minutes, 2 GB"
	@test "$$(.venv-bench/bin/python -V 2>&1)" = "$$($(BIN)/python -V)" || $(BIN)/python -m venv --clear .venv-bench
	.venv-bench/bin/python -m pip install -qq --require-hashes --no-deps -r benchmarks/requirements.lock
	.venv-bench/bin/python -m pip install -qq --no-deps --no-build-isolation -e .
	PATH="$(CURDIR)/.venv-bench/bin:$$PATH" .venv-bench/bin/python -m pip install -qq --require-hashes --no-deps \
	    --no-build-isolation -r benchmarks/numbalsoda.lock || echo "numbalsoda was not built; going on without it"
	.venv-bench/bin/python -m pip check
	@touch $@

# Python of an environment that is already there: "(3, 13)", or "()", which equals no version.
venv_version = $(shell $(BIN)/python -c 'import sys, pip; print(sys.version_info[:2])' 2>/dev/null || echo "()")
