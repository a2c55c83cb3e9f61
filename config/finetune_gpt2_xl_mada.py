# GPT-2 XL (1.5B) fine-tuned on Shakespeare under MADA, for about 2 epochs: Table 4 of the paper, training loss 0.255.
#   torchrun --standalone --nproc_per_node=8 train.py config/finetune_gpt2_xl_mada.py
# 32 sequences x 1,024 tokens = 32,768 tokens per step; 301,966 training tokens are 9.2 steps; x 20 steps = 2.2 epochs.
# On 8 GPUs: 32 = 8 ranks x 1 micro-step x 4 sequences. Memory in float32: 6.2 GB each for parameters, gradients and
# MADA's 7 buffers, 56 GB in all (Adam: 25 GB), which --shard=True splits over the GPUs; a checkpoint has 50 GB of them
# (Adam: 19 GB).
# From the paper: the model, the data, 2 epochs, the hyper-learning-rates (appendix C.2). It gives no batch size,
# learning rate or schedule: these are nanoGPT's for this task. Losses are in nats per token; the paper does not say
# what its 0.255 counts.
out_dir = "out/gpt2-xl-shakespeare-mada"
init_from = "gpt2-xl"
dataset = "shakespeare"
batch_size = 32
micro_batch_size = 4
checkpoint_activations = True

learning_rate = 3e-5  # constant
min_lr = 3e-5
warmup_iters = 0
max_iters = 20

optimizer = "mada"
beta1 = 0.9  # Adam, where learning starts: beta3 = 0.9 and rho = 0 are the paper's for OpenWebText only
beta2 = 0.95
eps = 1e-6  # as on OpenWebText, like the hyper-learning-rates
hyper_scale = "raw"  # the paper's hyper-gradients, with its hyper-learning-rates,
debias = "powers"  # its bias corrections,
domain = {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99)}  # and the bounds of the authors' code
hyper_lr = {
    "beta1": 5e-4,
    "beta2": 5e-4,
    "beta3": 1e-1,
    "rho": 1e-1,
    "c": 1e-1,
    "gamma": 1e-1,
}  # from the first step on

eval_interval = 10
log_interval = 1
