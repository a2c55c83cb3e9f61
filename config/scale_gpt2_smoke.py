# After a config/train_gpt2_*.py: does it run? A minute for a table, on two CPU cores; the losses mean nothing.
dataset = "shakespeare_char"
vocab_size = None
batch_size = 8
micro_batch_size = 8
block_size = 32
n_layer = n_layer // 12
n_head = 2
n_embd = 16
min_lr = learning_rate / 40
warmup_iters = 2
max_iters = 10
hyper_start = hyper_start and 2
eval_interval = 5
eval_iters = 2
log_interval = 5
device = "cpu"
