# ResNet-9 on CIFAR-10 under MADA: Table 5 of the paper, test accuracy 93.79 % +- 0.11. Settings of appendix C.2.
# 50,000 images / 400 = 125 steps per epoch; x 50 epochs = 6,250 steps.
# Not in the paper: crops and mirror images, which are usual with this model; no weight decay, no clipping,
# and betas. The notebook that the paper links has amsgrad, decay 1e-4, clipping by value, rotation and cycled momentum.
# One-cycle moves the learning rate only: torch's would also overwrite beta1, which is learned here.
out_dir = "out/cifar10-resnet9-mada"
model = "resnet9"
batch_size = 400
augment = True

schedule = "one_cycle"
learning_rate = 1e-2  # the peak

optimizer = "mada"
beta1 = 0.9
beta2 = 0.99  # the end of its domain, which is nearest to Adam's 0.999
hyper_scale = "raw"  # the paper's hyper-gradients, with its hyper-learning-rates,
debias = "powers"  # its bias corrections,
domain = {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99)}  # and the bounds of the authors' code
hyper_lr = {"beta1": 1e-4, "beta2": 1e-4, "beta3": 1e-2, "rho": 1e-2, "c": 1e-2, "gamma": 1e-2}
