# ResNet-9 on CIFAR-10 under HyperAdam: Table 5, test accuracy 93.69 % +- 0.06. The rest: cifar10_resnet9_mada.py.
out_dir = "out/cifar10-resnet9-hyperadam"
model = "resnet9"
batch_size = 400
augment = True

schedule = "one_cycle"
learning_rate = 1e-2  # the peak

optimizer = "hyperadam"
beta1 = 0.9
beta2 = 0.99  # the end of its domain
hyper_scale = "raw"  # the paper's hyper-gradients, with its hyper-learning-rates,
debias = "powers"  # its bias corrections,
domain = {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99)}  # and the bounds of the authors' code
hyper_lr = 1e-4
