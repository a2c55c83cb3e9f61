# GPT-2 124M on OpenWebText under MADA: Table 2 of the paper, validation loss 2.8806 (Adam 2.8956).
#   torchrun --standalone --nproc_per_node=8 train.py config/train_gpt2_mada.py
# 480 sequences x 1,024 tokens = 491,520 tokens per step; x 100,000 steps = 49.2B tokens (the paper's "492B" is a slip).
# On 8 GPUs: 480 = 8 ranks x 5 micro-steps x 12 sequences. Schedule and decay are train.py's defaults, those of appendix
# C.2: warm-up 2,000 steps to 6e-4, cosine to 1.5e-5, weight decay 0.1. Clipping at 1 is ours: C.2 does not mention it.
out_dir = "out/gpt2-mada"
dataset = "openwebtext"
micro_batch_size = 12
vocab_size = 50304  # 50257 rounded up to a multiple of 64

optimizer = "mada"
beta1 = 0.9  # Adam's established betas and eps ...
beta2 = 0.95
eps = 1e-6
beta3 = 0.9  # ... in the direction of Adan
rho = 0.0  # ... and of AVGrad
hyper_scale = "raw"  # the paper's hyper-gradients, with its hyper-learning-rates,
debias = "powers"  # its bias corrections,
domain = {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99)}  # and the bounds of the authors' code
hyper_lr = {"beta1": 5e-4, "beta2": 5e-4, "beta3": 1e-1, "rho": 1e-1, "c": 1e-1, "gamma": 1e-1}
hyper_start = 50  # steps before the coefficients begin to move
