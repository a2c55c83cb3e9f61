# Figure 8 in a minute: 2 x 2 initial betas x 3 optimizers, five steps of a toy model. It shows that everything runs.
base = "config/train_shakespeare_char_cpu.py"
block_size = 32
n_layer = 1
n_embd = 16
warmup_iters = 2
max_iters = 5
eval_interval = 5
eval_iters = 2
eval_train = True
device = "cpu"
seconds = 1.0

_own = {"adam": {"hyper_lr": None, "hyper_momentum": None}, "hyperadam": {"hyper_momentum": 0.5}, "mada": {}}


def cells():
    for optimizer, own in _own.items():
        for beta1 in (0.1, 0.9):
            for beta2 in (0.6, 0.95):
                yield {"optimizer": optimizer, "beta1": beta1, "beta2": beta2} | own
