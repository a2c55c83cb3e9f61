# ResNet-9 on CIFAR-10 under Adam: Table 5, test accuracy 93.73 % +- 0.10. The rest: cifar10_resnet9_mada.py.
out_dir = "out/cifar10-resnet9-adam"
model = "resnet9"
batch_size = 400
augment = True

schedule = "one_cycle"
learning_rate = 1e-2  # the peak

optimizer = "adam"
beta1 = 0.9
beta2 = 0.999  # torch's default; the paper names none
