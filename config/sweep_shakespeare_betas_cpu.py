# Figure 8, reduced to 2 CPU cores and under 30 minutes: a 0.1M model, 5 x 5 initial betas x 3 optimizers = 75 runs.
#   python scripts/sweep.py config/sweep_shakespeare_betas_cpu.py
# 12 sequences x 64 characters = 768 characters per step; 700 steps read 0.5M characters, half the training text.
base = "config/contest_shakespeare_large.py"
block_size = 64
n_layer = 2
n_embd = 64
max_iters = 700
eval_interval = 350
eval_iters = 25
eval_train = True  # the figure's loss: of the training split, without dropout
seconds = 16.0  # a cell on one thread

_beta1 = [0.01, 0.25, 0.5, 0.75, 0.99]  # the domain of Figure 8
_beta2 = [0.501, 0.6, 0.75, 0.9, 0.99]
_paper = {"hyper_scale": "raw", "debias": "powers", "domain": {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99)}}
_paper |= {"hyper_lr": 2.5e-3, "hyper_momentum": 0.5}  # appendix C.2
_mada = _paper | {"hyper_momentum": {"beta1": 0.5, "beta2": 0.5, "beta3": 0.5, "rho": 0.5, "c": 0.5, "gamma": 0.0}}
_own = {"adam": {}, "hyperadam": _paper, "mada": _mada}  # on top of the base


def cells():
    for optimizer, own in _own.items():
        for beta1 in _beta1:
            for beta2 in _beta2:
                yield {"optimizer": optimizer, "beta1": beta1, "beta2": beta2} | own
