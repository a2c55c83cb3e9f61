# After a config/train_gpt2_*.py: the full model for some steps, one short sequence each.
dataset = "openwebtext"
batch_size = 1
micro_batch_size = 1
block_size = 64
max_iters = 8
warmup_iters = 2
eval_interval = 8
eval_iters = 1
log_interval = 1
