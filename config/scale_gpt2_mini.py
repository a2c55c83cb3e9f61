# After a config/train_gpt2_*.py: a miniature that keeps the paper's proportions, a quarter of an hour per run on one CPU core.
# OpenWebText as bytes: 16 sequences x 128 = 2,048 bytes per step; x 10,000 steps = 20.5M, which is 3.9 times the text at hand
# (the paper: 5.4 times). Warm-up 2 % of the steps, hyper_start 2.5 % of the warm-up, rates down to 1/40 (Lion 1/10), weight
# decay times the sum of rates 3.1. The hyper-learning-rates are those at which coefficients end the warm-up about where the
# authors' do: results/table2/pilot/README.md.
dataset = "openwebtext_bytes"
vocab_size = None
batch_size = 16
micro_batch_size = 16
block_size = 128
n_layer = n_layer // 4  # GPT-2 small 3, medium 6
n_head = 3
n_embd = 96  # 0.35M parameters; medium 0.7M
learning_rate = 4 * learning_rate  # 2.4e-3, Adam's best at cpu scale; the pilot says: too small. Lion: 6e-4
min_lr = 6e-5
weight_decay = 0.25
warmup_iters = 200
max_iters = 10_000
hyper_start = hyper_start and 5
if isinstance(hyper_lr, dict):  # the paper's 5e-4 for the betas becomes 1e-3, its 1e-1 for the others 2e-2
    hyper_lr = {_name: 2 * _rate if _name in ("beta1", "beta2") else _rate / 5 for _name, _rate in hyper_lr.items()}
elif hyper_lr:
    hyper_lr *= 2
eval_interval = 100
eval_iters = 20
log_interval = 20
device = "cpu"
