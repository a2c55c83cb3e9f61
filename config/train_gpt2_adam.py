# GPT-2 124M on OpenWebText under AdamW: Table 2 of the paper, validation loss 2.8956. Arithmetic: train_gpt2_mada.py.
out_dir = "out/gpt2-adam"
dataset = "openwebtext"
micro_batch_size = 12
vocab_size = 50304

optimizer = "adam"
beta1 = 0.9
beta2 = 0.95
eps = 1e-6
