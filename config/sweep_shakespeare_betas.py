# Figure 8 at the paper's size: final training loss over initial beta1 x beta2 on Shakespeare; Adam, HyperAdam, MADA.
#   python scripts/sweep.py config/sweep_shakespeare_betas.py --compare results/paper/authors_shakespeare_grid.csv
# 25 x 11 values, those of the authors' table, x 3 optimizers = 825 runs of 5,000 steps of the 11M model (appendix C.2).
# MADA starts at Adam's corner and computes what the paper says; for what their code computes, put
# rule="authors" in place of _paper's first line.
base = "config/train_shakespeare_char.py"
eval_interval = 1000
eval_train = True  # the figure's loss: of the training split, without dropout
log_interval = 50
dtype = "float32"  # as the authors

_beta1 = [
    0.01,
    0.05,
    0.1,
    0.125,
    0.175,
    0.225,
    0.25,
    0.3,
    0.35,
    0.375,
    0.425,
    0.475,
    0.5,
    0.55,
    0.6,
    0.625,
    0.675,
    0.725,
    0.75,
    0.8,
    0.85,
    0.875,
    0.925,
    0.975,
    0.99,
]
_beta2 = [0.501, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99]
_paper = {"hyper_scale": "raw", "debias": "powers", "domain": {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99)}}
_paper |= {"hyper_lr": 2.5e-3, "hyper_momentum": 0.5}  # appendix C.2
_mada = _paper | {"hyper_momentum": {"beta1": 0.5, "beta2": 0.5, "beta3": 0.5, "rho": 0.5, "c": 0.5, "gamma": 0.0}}
_own = {"adam": {}, "hyperadam": _paper, "mada": _mada}  # on top of the base


def cells():
    for optimizer, own in _own.items():
        for beta1 in _beta1:
            for beta2 in _beta2:
                yield {"optimizer": optimizer, "beta1": beta1, "beta2": beta2} | own
