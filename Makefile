# Needs Python 3.11 or newer, git and make; everything else is installed into .venv, pinned by constraints.txt. The pins
# are of Python 3.11; on a newer one they are the same versions, built for it.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3.11)
BIN := .venv/bin
READY := .venv/ready
EXTRAS := dev,box2d,minigrid,minatar,atari,video,minari,sklearn,plot,onnx,pandas,notebook,docs,tune,postgres,mlflow,wandb,ray,serve,hub
# One torch thread per process: more cost time at this size, and the results would depend on the machine.
export OMP_NUM_THREADS ?= 1
# Containers set it: every process that the tests start would compile all of rlab again.
unexport PYTHONDONTWRITEBYTECODE
PYTEST := $(BIN)/python -m pytest -n 2
# The tests of a file stay in one process: what they share is made once.
BY_FILE := --dist loadfile

STUDIES := coverage overestimation digits text_task cloning value_pretraining no_dip head_start strategies bodies offline kickstarting quantization distillation pruning return_against_size switches sparse_rewards tuning population online_learning

# Quick tests of every room, one training among them.
SMOKE := $(addprefix tests/,networks/test_spaces.py networks/test_stacked_layers.py learning/test_returns.py \
	learning/test_optimizers.py experience/test_replay_rows.py experience/test_rollout.py envs/test_env_specs.py \
	envs/test_env_adapter.py evaluation/test_evaluate_episodes.py runs/test_run_folder.py runs/test_saved_policies.py \
	agents/test_dqn_learning_step.py compression/test_quantize.py house/test_command_line.py \
	agents/test_cartpole.py::test_a_run_from_python_gives_its_evaluation_report_and_policies \
	agents/test_cartpole.py::test_resume_goes_on_with_replay_counters_and_logs)
# The tests whose results are sums of floating-point numbers.
COMPUTING := tests/agents tests/compression tests/evaluation tests/learning tests/networks

.PHONY: help train test smoke test-cpus test-two-cpus floors prove bench docs lint types clean

help:
	@echo "make train      set up, then train DQN on CartPole-v1"
	@echo "make test       set up, then run the tests: about 22 minutes of CPU time, 12 on two cores"
	@echo "make smoke      a quick test of every room: an answer in under a minute"
	@echo "make test-cpus  the tests under six settings that round as other CPUs do (the time of six make test)"
	@echo "make floors     the tests with the lowest versions that pyproject.toml allows, in a venv of its own"
	@echo "make prove      the long proofs, every experiment's claim and every study (days)"
	@echo "make bench      the speed comparisons"
	@echo "make docs       the documentation, into build/site"
	@echo "make lint       ruff"
	@echo "make types      mypy, on the built package"
	@echo "make clean      remove what was built; runs/ stays"

train: $(READY)
	$(BIN)/python -m rlab train dqn CartPole-v1

test: $(READY)
	@echo "About 22 minutes of CPU time, 12 on two cores; make smoke answers in under one."
	$(PYTEST) $(BY_FILE)

smoke: $(READY)
	$(PYTEST) -q $(SMOKE)

test-cpus: $(READY)
	@echo "Six times the tests: more than two hours of CPU time, 70 minutes on two cores."
	$(BIN)/python .ci/cpus -n 2 $(BY_FILE)

test-two-cpus: $(READY)
	$(BIN)/python .ci/cpus --sets oldest,avx2 -n 2 $(BY_FILE) $(COMPUTING)

# What is installed are the floors themselves, read from pyproject.toml. Box2D is left out: with Gymnasium 1.1 it is
# built from source. Tools of the tests are not what is tested: they are those of constraints.txt.
floors:
	rm -rf build/floors
	$(PYTHON) -m venv build/floors
	build/floors/bin/pip install -q -c constraints.txt setuptools hypothesis pytest pytest-xdist
	build/floors/bin/pip install -q --no-build-isolation -e . $$($(PYTHON) .ci/floors minari minigrid onnx pandas plot sklearn video)
	build/floors/bin/python -m pytest -n 2 -W default # what was not yet deprecated, or was, is no error of ours

prove: $(READY)
	$(PYTEST) -m prove
	$(PYTEST) -m "hypothesis and not prove" --hypothesis-profile=ci # with a hundred examples each
	$(BIN)/pip install -q -c constraints.txt -e ".[mujoco,robotics]" --no-build-isolation
	$(BIN)/python -m rlab bench --all
	for name in $(STUDIES); do $(BIN)/python -m rlab.experiments.$$name || exit 1; done
	for name in kills crashes disk_faults env_failures; do $(BIN)/python -m rlab.experiments.reliability.$$name || exit 1; done

bench: $(READY)
	$(BIN)/pip install -q -c constraints.txt -e ".[bench]" --no-build-isolation
	for name in speed_against_sb3 ppo_speed main_job cost_of_seeds export border draws tensor_envs engine checkpoints sac_against_sb3 bootstrap data_parallel ray_study vectorised_search serving; do $(BIN)/python -m rlab.experiments.benchmarks.$$name || exit 1; done

docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
	@echo "open build/site/index.html"

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
	@echo "Setting up .venv with $(PYTHON) (once, a minute or a few): downloading and installing what constraints.txt pins,"
	@echo "torch first of all. Nothing is printed until it is done."
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q -c constraints.txt setuptools
	$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e ".[$(EXTRAS)]"
	touch $@
