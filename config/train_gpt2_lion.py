# GPT-2 124M on OpenWebText under Lion: Table 2, validation loss 2.8892. Arithmetic: train_gpt2_mada.py.
out_dir = "out/gpt2-lion"
dataset = "openwebtext"
micro_batch_size = 12
vocab_size = 50304

optimizer = "lion"
beta1 = 0.95  # of the update; Lion's values for language models
beta2 = 0.98  # of the momentum
learning_rate = 1.5e-4  # a quarter of the others' (appendix C.2)
