# After config/scale_gpt2_mini.py: its first tenth. The same rates at the same steps, a minute and a half per run.
lr_decay_iters = max_iters
max_iters = max_iters // 10
