# ResNet-9 on CIFAR-10 under SGD with momentum: Table 5, test accuracy 92.60 % +- 0.10.
# The rest: cifar10_resnet9_mada.py.
out_dir = "out/cifar10-resnet9-sgd"
model = "resnet9"
batch_size = 400
augment = True

schedule = "one_cycle"
learning_rate = 1e-1  # the peak

optimizer = "sgd"
momentum = 0.9
