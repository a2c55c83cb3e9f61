# After a config/train_gpt2_*.py and scale_gpt2_cpu.py: the first 1,000 steps of what was planned as the miniature,
# 10,000 steps of 2,048 bytes: results/table2/pilot/README.md says what came of it. Two to four minutes per run.
learning_rate = 4 * learning_rate  # 2.4e-3, Adam's best at cpu scale; Lion: 6e-4
min_lr = 6e-5
weight_decay = 0.25
warmup_iters = 200
lr_decay_iters = 10_000
max_iters = 1_000
hyper_start = hyper_start and 5
if isinstance(hyper_lr, dict):  # the paper's 5e-4 for the betas becomes 1e-3, its 1e-1 for the others 2e-2
    hyper_lr = {_name: 2 * _rate if _name in ("beta1", "beta2") else _rate / 5 for _name, _rate in hyper_lr.items()}
elif hyper_lr:
    hyper_lr *= 2
