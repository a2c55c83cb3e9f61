# GPT-2 124M on OpenWebText under AVGrad: Table 2, validation loss 2.8895. Adam's settings.
# Arithmetic: train_gpt2_mada.py.
out_dir = "out/gpt2-avgrad"
dataset = "openwebtext"
micro_batch_size = 12
vocab_size = 50304

optimizer = "avgrad"
beta1 = 0.9
beta2 = 0.95
eps = 1e-6
