# GPT-2 124M on OpenWebText under MADA from Muon's corner: beyond the paper, and never run at this size.
#   torchrun --standalone --nproc_per_node=8 train.py config/train_gpt2_mada_muon.py
# Arithmetic and schedule as in train_gpt2_mada.py. State: 18 bytes per parameter of a hidden matrix, 12 elsewhere.
out_dir = "out/gpt2-mada-muon"
dataset = "openwebtext"
micro_batch_size = 12
vocab_size = 50304

optimizer = "mada"
mu = 1.0  # hidden matrices start at Muon, everything else at Adam
learn = ("beta1", "beta2", "mu")
