# GPT-2 XL (1.5B) fine-tuned on Shakespeare under AdamW: Table 4, training loss 0.276.
# Arithmetic: finetune_gpt2_xl_mada.py.
out_dir = "out/gpt2-xl-shakespeare-adam"
init_from = "gpt2-xl"
dataset = "shakespeare"
batch_size = 32
micro_batch_size = 4
checkpoint_activations = True

learning_rate = 3e-5
min_lr = 3e-5
warmup_iters = 0
max_iters = 20

optimizer = "adam"
beta1 = 0.9
beta2 = 0.95
eps = 1e-6

eval_interval = 10
log_interval = 1
