# The paper's 11M model on Shakespeare, character by character, under MADA (appendix C.2; the base of Figure 8's cells).
# 64 sequences x 256 characters = 16,384 per step; x 5,000 steps = 82M characters, 80 times the training text.
out_dir = "out/shakespeare-char"
dataset = "shakespeare_char"
batch_size = 64
block_size = 256

n_layer = 6
n_head = 6
n_embd = 384  # 10.7M parameters
dropout = 0.2  # not in the paper; nanoGPT's for this model

learning_rate = 1e-3
min_lr = 1e-4
warmup_iters = 100
max_iters = 5000

optimizer = "mada"
beta1 = 0.9  # Figure 8 sweeps the grid of initial betas
beta2 = 0.99

eval_interval = 250
