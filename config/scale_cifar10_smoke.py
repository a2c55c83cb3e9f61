# After a config/cifar10_*.py: does it run?
images = 512
batch_size = 128
epochs = 1
