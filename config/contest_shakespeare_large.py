# The contest's larger GPT on Shakespeare, and what its other GPTs are made from: 0.8M parameters, 2,000 steps.
# 12 sequences x 128 characters = 1,536 characters per step; 2,000 steps read 3.1M, 3 times the training text.
dataset = "shakespeare_char"
batch_size = 12
block_size = 128

n_layer = 4
n_head = 4
n_embd = 128

learning_rate = 4e-3
min_lr = 3e-4
warmup_iters = 100
max_iters = 2000

optimizer = "mada"
beta1 = 0.9
beta2 = 0.99

eval_interval = 1000
eval_iters = 60
log_interval = 50
device = "cpu"
