# make quickstart: a small GPT learns Shakespeare under MADA, on whatever device there is.   make check: ruff.
# make compare: the same from Muon's corner, under MADA's defaults and under AdamW, these two at AdamW's best rate; one picture.
# make test: the whole test suite.   make test-fast: the optimizers and the trainer, less what takes seconds.
# make kernels: install Triton and compile every GPU kernel, without a GPU; fails where one takes too many registers.
# make gpu-report: on a GPU, everything that only one can show, beside what was predicted; results/gpu/.
# make soak: bad input and kills for MINUTES=60; its report is results/reliability/README.md.
PYTHON ?= python3
WORKERS = $(shell n=$$(getconf _NPROCESSORS_ONLN) && echo $$((n < 7 ? n + 1 : 8)))  # tests also wait, for processes and for timers
PYTEST = OMP_NUM_THREADS=1 .venv/bin/python -m pytest -q -n $(WORKERS) --dist worksteal --durations=20
RUN = .venv/bin/python train.py config/train_shakespeare_char_cpu.py --init_from=auto
BEST = --learning_rate=4e-3 --min_lr=4e-4
OUT = out/shakespeare-char-cpu

.PHONY: quickstart compare check test test-fast kernels gpu-report soak
MINUTES ?= 60

quickstart: .venv/installed
	.venv/bin/python data/shakespeare_char/prepare.py
	$(RUN)
	.venv/bin/python scripts/plot.py $(OUT)
	.venv/bin/python scripts/sample.py $(OUT)/ckpt_best.pt

compare: .venv/installed
	.venv/bin/python data/shakespeare_char/prepare.py
	$(RUN)
	$(RUN) --mu=None --learn=None $(BEST) --out_dir=$(OUT)-defaults
	$(RUN) --optimizer=adam $(BEST) --out_dir=$(OUT)-adam
	.venv/bin/python scripts/plot.py $(OUT) $(OUT)-defaults $(OUT)-adam

check: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

test: .venv/installed
	$(PYTEST)

test-fast: .venv/installed
	$(PYTEST) -m "not slow" tests/optim tests/clients tests/train

kernels: .venv/installed
	@.venv/bin/python -c "import triton" 2> /dev/null || .venv/bin/pip install ".[kernels]"
	.venv/bin/python scripts/kernels.py

gpu-report: .venv/installed
	.venv/bin/python scripts/gpu_report.py

soak: .venv/installed
	OMP_NUM_THREADS=1 .venv/bin/python tests/faults/soak.py --minutes $(MINUTES) --report results/reliability/README.md > /dev/null

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -r requirements.txt
	touch $@
