"""The device that a setting names, for everything that takes one."""

import torch

from config import UserError


def usable(device):
    """"auto" -> the first of "cuda", "mps" and "cpu" that there is; any other name as it is, once it has been tried.

    Raises UserError where it cannot be used.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=device).zero_()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={device!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device
