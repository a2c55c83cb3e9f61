# GPT-2 XL (1.5B) fine-tuned on Shakespeare under HyperAdam: Table 4, training loss 0.278.
# Arithmetic: finetune_gpt2_xl_mada.py.
out_dir = "out/gpt2-xl-shakespeare-hyperadam"
init_from = "gpt2-xl"
dataset = "shakespeare"
batch_size = 32
micro_batch_size = 4
checkpoint_activations = True

learning_rate = 3e-5
min_lr = 3e-5
warmup_iters = 0
max_iters = 20

optimizer = "hyperadam"
beta1 = 0.9  # where learning starts
beta2 = 0.95
eps = 1e-6
hyper_scale = "raw"  # the paper's hyper-gradients, with its hyper-learning-rates,
debias = "powers"  # its bias corrections,
domain = {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99)}  # and the bounds of the authors' code
hyper_lr = 5e-4

eval_interval = 10
log_interval = 1
