# make run    web pages to a chat answer, on the demo
# make test   the tests                        make lint   style and types
# make proof  all tests, those that take long too (crash points, kills), controls over three seeds, the kernel's overhead, training's
#             speed, memory, packing; hours
# make gpu-proof  what needs two GPUs, as one table
# make docs   write docs/configuration.md anew from the schemas
# make clean  remove what make made, except out/

PYTHON ?= python3.11
BIN := .venv/bin
SEEDS := 0 1 2
unexport PYTHONDONTWRITEBYTECODE  # or each of the many processes would compile the same modules again

.PHONY: run test lint proof gpu-proof docs clean
.NOTPARALLEL:

run: .venv/.installed-run
	$(BIN)/crawl2chat
	$(BIN)/crawl2chat chat "What is 23+45?"

test: .venv/.installed-dev
	$(BIN)/pytest

lint: .venv/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

proof: .venv/.installed-dev
	$(BIN)/pip install --quiet --no-compile -e '.[dev,lm-eval]'
	$(BIN)/pytest -m "proof or not proof"
	for seed in $(SEEDS); do \
	  $(BIN)/crawl2chat name=seed-$$seed demo.seed=$$seed pretrain.seed=$$seed sft.seed=$$seed dpo.seed=$$seed grpo.seed=$$seed || exit 1; \
	done
	$(BIN)/python -m benchmarks.post_training_controls $(SEEDS:%=out/runs/seed-%)
	$(BIN)/python -m benchmarks.kernel_overhead
	$(BIN)/python -m benchmarks.training --parts
	$(BIN)/python -m benchmarks.loss_memory
	$(BIN)/python -m benchmarks.checkpoints
	if [ -d ../shared/data ]; then $(BIN)/python -m benchmarks.packing; else echo "packing: skipped, ../shared/data is not there"; fi

gpu-proof: .venv/.installed-dev
	$(BIN)/python -m benchmarks.gpu_proof

docs: .venv/.installed-run
	$(BIN)/python -m pipeline.reference docs/configuration.md

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './out/*' -exec rm -rf {} +

.venv/bin/python:
	$(PYTHON) -m venv .venv

# A stamp is newer than pyproject.toml once its installation has ended well. The dev environment can run as well.
# Modules are compiled when they are first imported: most never are, and compiling all takes longer than unpacking them.
.venv/.installed-run: pyproject.toml | .venv/bin/python
	@echo "installing into .venv"
	$(BIN)/pip install --quiet --no-compile -e .
	@touch $@

.venv/.installed-dev: pyproject.toml | .venv/bin/python
	@echo "installing into .venv"
	$(BIN)/pip install --quiet --no-compile -e '.[dev]'
	@touch .venv/.installed-run $@
