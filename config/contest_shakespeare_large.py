# After config/train_shakespeare_char_cpu.py: the quickstart's GPT, 0.8M parameters, as it is; one evaluation less often.
eval_interval = 1000
eval_iters = 60
log_interval = 50
device = "cpu"
