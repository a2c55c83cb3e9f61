# After a config/train_gpt2_*.py: the full model for some steps.
batch_size = 60
max_iters = 30
warmup_iters = 2
eval_interval = 30
eval_iters = 1
log_interval = 1
