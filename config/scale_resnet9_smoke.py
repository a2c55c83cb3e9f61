# After config/scale_cifar10_smoke.py: so few images that a CPU does the large model in seconds.
images = 32
batch_size = 16
