# GPT-2 124M on OpenWebText under Adan: Table 2, validation loss 2.8896. Arithmetic: train_gpt2_mada.py.
# "For other methods we use the parameters suggested in respective papers" (section 5.1): Adan's betas and eps.
out_dir = "out/gpt2-adan"
dataset = "openwebtext"
micro_batch_size = 12
vocab_size = 50304

optimizer = "adan"
beta1 = 0.98  # of the gradient
beta2 = 0.92  # of the difference of gradients
beta3 = 0.99  # of the second moment
eps = 1e-8
