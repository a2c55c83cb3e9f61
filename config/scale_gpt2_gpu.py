# After a config/train_gpt2_*.py: minutes per run on one H100. GPT-2's tokens and width, fewer layers, shorter.
# 64 sequences x 256 tokens = 16,384 per step; x 3,000 steps = 49M tokens, a thousandth of the paper's 49B.
batch_size = 64
micro_batch_size = 64
block_size = 256
n_layer = n_layer // 2
warmup_iters = 100
max_iters = 3000
eval_interval = 500
eval_iters = 50
