# Needs Python 3.11, git and make; everything else is installed into .venv, pinned by constraints.txt.

PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/ready
EXTRAS := dev,box2d,minigrid,video,minari,sklearn,plot,onnx,pandas,notebook,docs
# One torch thread per process: more cost time at this size, and the results would depend on the machine.
export OMP_NUM_THREADS := 1
PYTEST := $(BIN)/python -m pytest -n 2

STUDIES := overestimation digits text_task cloning value_pretraining no_dip head_start strategies bodies offline kickstarting quantization distillation pruning return_against_size

.PHONY: help train test prove bench lint types clean

help:
	@echo "make train   set up, then train DQN on CartPole-v1"
	@echo "make test    set up, then run the tests"
	@echo "make prove   the long proofs, every experiment's claim and every study (hours)"
	@echo "make bench   the speed comparisons"
	@echo "make lint    ruff"
	@echo "make types   mypy, on the built package"
	@echo "make clean   remove what was built; runs/ stays"

train: $(READY)
	$(BIN)/python -m rlab train dqn CartPole-v1

test: $(READY)
	$(PYTEST)

prove: $(READY)
	$(PYTEST) -m prove
	$(BIN)/python -m rlab bench experiments/*.toml
	for name in $(STUDIES); do $(BIN)/python -m rlab.experiments.$$name || exit 1; done

bench: $(READY)
	$(BIN)/pip install -q -c constraints.txt -e ".[bench]" --no-build-isolation
	for name in speed_against_sb3 ppo_speed main_job cost_of_seeds export border; do $(BIN)/python -m rlab.experiments.benchmarks.$$name || exit 1; done

lint: $(READY)
	$(BIN)/ruff check .

types: $(READY)
	rm -rf build/types
	mkdir -p build/types/source
	$(BIN)/python .ci/export build/types/source
	$(BIN)/pip wheel -q --no-build-isolation --no-deps -w build/types build/types/source
	$(BIN)/python -m zipfile -e build/types/*.whl build/types/package
	cd build/types/package && ../../../$(BIN)/mypy --config-file ../../../pyproject.toml --cache-dir ../../../.mypy_cache -p rlab

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# setuptools comes first, pinned, so that the build of rlab itself fetches nothing of its own choice.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt setuptools
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e ".[$(EXTRAS)]"
	touch $@
