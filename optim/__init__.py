"""MADA, and the optimizers it contains or is compared with: `from mada import MADA`; in this repo, `from optim`."""

from .adan import Adan
from .avgrad import AVGrad
from .build import OPTIMIZERS, build, flat, resolved, signature
from .engine import ParameterizedOptimizer
from .groups import decay_matrices, hidden_matrices, param_groups
from .hyperadam import HyperAdam
from .lion import Lion
from .mada import MADA, sqrt
from .wrappers import coefficients
from .yogi import Yogi

__all__ = [
    "MADA",
    "OPTIMIZERS",
    "AVGrad",
    "Adan",
    "HyperAdam",
    "Lion",
    "ParameterizedOptimizer",
    "Yogi",
    "build",
    "coefficients",
    "decay_matrices",
    "flat",
    "hidden_matrices",
    "param_groups",
    "resolved",
    "signature",
    "sqrt",
]
