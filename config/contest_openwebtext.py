# After config/contest_shakespeare_large.py: a GPT of 0.35M parameters on OpenWebText as bytes.
# 16 sequences x 128 = 2,048 bytes per step; x 3,000 steps = 6.1M bytes, past the plateau of bigrams.
dataset = "openwebtext_bytes"
batch_size = 16
n_layer = 3
n_head = 3
n_embd = 96
max_iters = 3000
eval_iters = 40
