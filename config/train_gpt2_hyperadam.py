# GPT-2 124M on OpenWebText under HyperAdam (Adam with learned betas): Table 2, validation loss 2.8950.
# Arithmetic: train_gpt2_mada.py.
out_dir = "out/gpt2-hyperadam"
dataset = "openwebtext"
micro_batch_size = 12
vocab_size = 50304

optimizer = "hyperadam"
beta1 = 0.9  # where learning starts
beta2 = 0.95
eps = 1e-6
hyper_scale = "raw"  # the paper's hyper-gradients, with its hyper-learning-rates,
debias = "powers"  # its bias corrections,
domain = {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99)}  # and the bounds of the authors' code
hyper_lr = 5e-4
hyper_start = 50
