# 5-layer CNN on CIFAR-10 under Adam: Table 5, test accuracy 65.84 % +- 0.11. The rest: cifar10_cnn_mada.py.
out_dir = "out/cifar10-cnn-adam"

optimizer = "adam"
beta1 = 0.9
beta2 = 0.999  # torch's default; the paper names none
