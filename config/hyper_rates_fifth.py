# After a config/train_gpt2_mada.py: the hyper-learning-rates as they acted in the authors' code
# (docs/authors_code.md).
hyper_lr = {name: rate / 5 for name, rate in hyper_lr.items()}
