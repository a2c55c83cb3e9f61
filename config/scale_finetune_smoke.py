# After config/scale_gpt2_smoke.py: from random weights, since pretrained ones have one size.
init_from = "scratch"
min_lr = learning_rate
warmup_iters = 0
