# After config/contest_shakespeare_large.py: the contest's smallest GPT, 0.1M parameters.
# 12 sequences x 64 characters = 768 characters per step; 700 steps read 0.5M characters, half the training text.
block_size = 64
n_layer = 2
n_embd = 64
warmup_iters = 50
max_iters = 700
eval_interval = 700
