# make quickstart: a GPT learns Shakespeare under MADA, on whatever device there is.   make test: the whole test suite.
PYTHON ?= python3
QUICK = $(shell .venv/bin/python -c "import torch; print('shakespeare_char' + '_cpu' * (not torch.cuda.is_available()))")
OUT = $(if $(findstring cpu,$(QUICK)),out/shakespeare-char-cpu,out/shakespeare-char)

.PHONY: quickstart test

quickstart: .venv/installed
	.venv/bin/python data/shakespeare_char/prepare.py
	.venv/bin/python train.py config/train_$(QUICK).py --overwrite=True
	.venv/bin/python scripts/plot.py $(OUT)
	.venv/bin/python scripts/sample.py $(OUT)/ckpt_best.pt

test: .venv/installed
	.venv/bin/python -m pytest -q

.venv/installed: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install -r requirements.txt
	touch $@
