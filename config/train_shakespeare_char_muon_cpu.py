# The quickstart's GPT under MADA from Muon's corner: its hidden matrices start at Muon, everything else at Adam.
#   python train.py config/train_shakespeare_char_muon_cpu.py
# Arithmetic: train_shakespeare_char_cpu.py.
out_dir = "out/shakespeare-char-muon-cpu"
dataset = "shakespeare_char"
batch_size = 12
block_size = 128

n_layer = 4
n_head = 4
n_embd = 128  # 0.8M parameters

learning_rate = 1e-2  # Muon bears more than AdamW
min_lr = 1e-3
warmup_iters = 100
max_iters = 2000

optimizer = "mada"
mu = 1.0  # where learning starts; 0 is Adam's corner
learn = ("beta1", "beta2", "mu")
beta1 = 0.9
beta2 = 0.99

eval_interval = 500
log_interval = 20
