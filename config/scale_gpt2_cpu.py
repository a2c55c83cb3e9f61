# After a config/train_gpt2_*.py: the same contest on two CPU cores, minutes per run; model, text and steps are reduced.
# OpenWebText as bytes: 16 sequences x 128 = 2,048 per step; x 600 steps = 1.2M. Warm-up and hyper_start shrink too.
dataset = "openwebtext_bytes"
vocab_size = None
batch_size = 16
micro_batch_size = 16
block_size = 128
n_layer = n_layer // 4  # GPT-2 small 3, medium 6
n_head = 3
n_embd = 96  # 0.35M parameters; medium 0.7M
min_lr = learning_rate / 40  # as 1.5e-5 to 6e-4; Lion's peak is a quarter of the others' here too
warmup_iters = 30
max_iters = 600
hyper_start = hyper_start and 10
eval_interval = 100
eval_iters = 20
log_interval = 20
device = "cpu"
