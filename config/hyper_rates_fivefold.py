# Five times the hyper-learning-rates of a config/train_gpt2_mada.py.
hyper_lr = {name: rate * 5 for name, rate in hyper_lr.items()}
