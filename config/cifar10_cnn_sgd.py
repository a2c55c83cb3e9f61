# 5-layer CNN on CIFAR-10 under SGD with momentum: Table 5, test accuracy 65.97 % +- 0.94.
# The rest: cifar10_cnn_mada.py.
out_dir = "out/cifar10-cnn-sgd"

optimizer = "sgd"
momentum = 0.9
learning_rate = 1e-2
