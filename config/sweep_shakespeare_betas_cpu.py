# Figure 8, reduced to 2 CPU cores and under 30 minutes: a 0.1M model, 5 x 5 initial betas x 3 optimizers = 75 runs.
#   python scripts/sweep.py config/sweep_shakespeare_betas_cpu.py
# 12 sequences x 64 characters = 768 characters per step; 700 steps read 0.5M characters, half the training text.
base = "config/train_shakespeare_char_cpu.py"
block_size = 64
n_layer = 2
n_embd = 64
max_iters = 700
eval_interval = 350
eval_iters = 25
eval_train = True  # the figure's loss: of the training split, without dropout
log_interval = 50
device = "cpu"
seconds = 16.0  # a cell on one thread

_beta1 = [0.01, 0.25, 0.5, 0.75, 0.99]  # the domain of Figure 8
_beta2 = [0.501, 0.6, 0.75, 0.9, 0.99]
# what an optimizer does not share with the base, which is MADA's
_own = {"adam": {"hyper_lr": None, "hyper_momentum": None}, "hyperadam": {"hyper_momentum": 0.5}, "mada": {}}


def cells():
    for optimizer, own in _own.items():
        for beta1 in _beta1:
            for beta2 in _beta2:
                yield {"optimizer": optimizer, "beta1": beta1, "beta2": beta2} | own
