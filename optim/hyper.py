"""How the coefficients descend: (h, velocity, square, momentum, k = 1, 2, ...) -> (step, velocity, square).

All are vectors with one entry per coefficient, but k, the count of these steps; the step is in units of hyper_lr.
"""


def hyper_sgd(h, velocity, square, momentum, k):
    velocity = momentum * velocity + h
    return velocity, velocity, square


def hyper_sign(h, velocity, square, momentum, k):
    velocity = momentum * velocity + h
    return velocity.sign(), velocity, square


def hyper_adam(h, velocity, square, momentum, k):
    velocity, square = momentum * velocity + (1 - momentum) * h, 0.999 * square + 0.001 * h * h
    return velocity / (1 - momentum**k) / ((square / (1 - 0.999**k)).sqrt() + 1e-12), velocity, square


HYPER_OPTIMIZERS = {"sgd": hyper_sgd, "sign": hyper_sign, "adam": hyper_adam}
