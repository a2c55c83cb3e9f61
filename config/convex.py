# The convex problem of Reddi et al. to T = 2,000,000: Figure 9 of the paper (appendix C.3).
# Of the settings the paper names one: "we reduce the effect of Lion by assigning a small hyper-learning rate to gamma".
# With 5e-4 for the betas, as on OpenWebText, MADA learns a small beta2 here before rho has fallen, and stays at x = 1;
# with 1e-6 or 0 for them, rho falls to 0 and x reaches -1 for learning rates 2e-3 to 3e-3 (and 5e-3 with 0).
# The script that the authors released (amsgrad_toy.py) has a learning rate of 1e-3, betas and gamma that are not
# learned, and a hyper-learning-rate of 1e-1 with a momentum of 0.9 for the rest: the last two rows.
out_dir = "out/convex"
learning_rate = 3e-3
log_interval = 10_100  # 100 periods: all points, but the last, are of the same phase

_raw = {"hyper_scale": "raw", "debias": "powers"}  # the paper's forms
_mada = {"beta1": 1e-6, "beta2": 1e-6, "beta3": 1e-1, "rho": 1e-1, "c": 1e-1, "gamma": 1e-5}
_theirs = {
    "learning_rate": 1e-3,
    "hyper_lr": {"beta3": 1e-1, "rho": 1e-1, "c": 1e-1},
    "hyper_momentum": {"beta3": 0.9, "rho": 0.9, "c": 0.9},
}
optimizers = {
    "Adam": {},
    "AVGrad": {"rho": 0.0},
    "AMSGrad": {"rho": 0.0, "second_moment": "amsgrad"},
    "MADA": _raw | {"hyper_lr": _mada},
    "MADA, betas at 5e-4": _raw | {"hyper_lr": _mada | {"beta1": 5e-4, "beta2": 5e-4}},
    "MADA, gamma at 1e-1": _raw | {"hyper_lr": _mada | {"gamma": 1e-1}},
    "MADA, AMSGrad's form": _raw | {"hyper_lr": _mada, "second_moment": "amsgrad"},
    "MADA, authors' settings": _raw | _theirs,
    "MADA, authors' settings (rule=authors)": _theirs | {"rule": "authors"},
    "MADA, defaults of optim/": {"hyper_lr": 1e-2},
}
