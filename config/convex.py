# The convex problem of Reddi et al. to T = 2,000,000: Figure 9 of the paper (appendix C.3).
out_dir = "out/convex"
learning_rate = 3e-3

# "We reduce the effect of Lion by assigning a small hyper-learning rate to gamma." The paper names no other setting.
_hyper_lr = {"beta3": 1e-1, "rho": 1e-1, "c": 1e-1, "gamma": 1e-5}
optimizers = {
    "Adam": {}, "AVGrad": {"rho": 0.0}, "AMSGrad": {"rho": 0.0, "second_moment": "amsgrad"},
    "MADA": {"hyper_lr": _hyper_lr},  # from Adam's corner; beta1 and beta2 stay where they are
    "MADA, betas too": {"hyper_lr": _hyper_lr | {"beta1": 5e-4, "beta2": 5e-4}},
    "MADA, AMSGrad form": {"hyper_lr": _hyper_lr, "second_moment": "amsgrad"},
}
