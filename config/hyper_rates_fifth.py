# After a config/train_gpt2_mada.py: what the hyper-learning-rates of the authors' code acted like (docs/authors_code.md).
hyper_lr = {name: rate / 5 for name, rate in hyper_lr.items()}
