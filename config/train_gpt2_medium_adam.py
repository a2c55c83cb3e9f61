# GPT-2 medium (24 layers, 355M) on OpenWebText under AdamW: Table 7. Arithmetic: train_gpt2_medium_mada.py.
out_dir = "out/gpt2-medium-adam"
dataset = "openwebtext"
micro_batch_size = 6
vocab_size = 50304
n_layer = 24
n_head = 16
n_embd = 1024

optimizer = "adam"
beta1 = 0.9
beta2 = 0.95
eps = 1e-6
