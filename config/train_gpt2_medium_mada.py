# GPT-2 medium (24 layers, 355M with the embeddings; the paper says 335M) on OpenWebText under MADA: Table 7.
# 480 sequences on 8 GPUs = 8 ranks x 10 micro-steps x 6 sequences; the rest as in train_gpt2_mada.py,
# the rate of 6e-4 too, where the authors' file has 5e-4.
out_dir = "out/gpt2-medium-mada"
dataset = "openwebtext"
micro_batch_size = 6
vocab_size = 50304
n_layer = 24
n_head = 16
n_embd = 1024

optimizer = "mada"
beta1 = 0.9
beta2 = 0.95
eps = 1e-6
beta3 = 0.9
rho = 0.0
hyper_scale = "raw"  # the paper's hyper-gradients, with its hyper-learning-rates,
debias = "powers"  # its bias corrections,
domain = {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99)}  # and the bounds of the authors' code
hyper_lr = {"beta1": 5e-4, "beta2": 5e-4, "beta3": 1e-1, "rho": 1e-1, "c": 1e-1, "gamma": 1e-1}
hyper_start = 50
