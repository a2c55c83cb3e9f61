# GPT-2 124M on OpenWebText under MADA-FS: MADA fixed at the coefficients at the end of a run. Table 2: 2.8766.
# These are the last line of the authors' own log from beta3 = 0.9, rho = 0 (their Figure 7). Those of your own run:
#   tail -n 1 out/gpt2-mada/metrics.jsonl
# Arithmetic: train_gpt2_mada.py.
out_dir = "out/gpt2-mada-fs"
dataset = "openwebtext"
micro_batch_size = 12
vocab_size = 50304

optimizer = "mada"
learn = ()
beta1 = 0.99
beta2 = 0.947677
beta3 = 0.159554
rho = 0.232599
c = 0.976991
gamma = 1.0
eps = 1e-6
