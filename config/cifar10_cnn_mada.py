# 5-layer CNN on CIFAR-10 under MADA: Table 5 of the paper, test accuracy 66.12 % +- 0.14. Settings of appendix C.2.
# 50,000 images / 256 = 196 steps per epoch; x 50 epochs = 9,800 steps.
# Not in the paper: pixels scaled to [-1, 1]; no augmentation, weight decay or clipping (the plainest choices); betas.
out_dir = "out/cifar10-cnn-mada"

optimizer = "mada"
beta1 = 0.9
beta2 = 0.99  # the end of its domain, which is nearest to Adam's 0.999
hyper_scale = "raw"  # the paper's hyper-gradients, with its hyper-learning-rates,
debias = "powers"  # its bias corrections,
domain = {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99)}  # and the bounds of the authors' code
hyper_lr = {"beta1": 1e-4, "beta2": 1e-4, "beta3": 1e-2, "rho": 1e-2, "c": 1e-2, "gamma": 1e-2}
