# Figure 8 in a minute: 2 x 2 initial betas x 3 optimizers, five steps of a toy model. It shows that everything runs.
base = "config/contest_shakespeare_large.py"
block_size = 32
n_layer = 1
n_embd = 16
warmup_iters = 2
max_iters = 5
eval_interval = 5
eval_iters = 2
eval_train = True
seconds = 1.0

_paper = {"hyper_scale": "raw", "debias": "powers", "domain": {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99)}}
_paper |= {"hyper_lr": 2.5e-3, "hyper_momentum": 0.5}  # appendix C.2
_mada = _paper | {"hyper_momentum": {"beta1": 0.5, "beta2": 0.5, "beta3": 0.5, "rho": 0.5, "c": 0.5, "gamma": 0.0}}
_own = {"adam": {}, "hyperadam": _paper, "mada": _mada}  # on top of the base


def cells():
    for optimizer, own in _own.items():
        for beta1 in (0.1, 0.9):
            for beta2 in (0.6, 0.95):
                yield {"optimizer": optimizer, "beta1": beta1, "beta2": beta2} | own
