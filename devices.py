"""The device that a setting names, and what hardware that is, for everything that takes one."""

import os
import platform

import torch

from settings import UserError


def usable(device):
    """ "auto" -> the first of "cuda", "mps" and "cpu" that there is; any other name as it is, once it has been tried.

    Raises UserError where it cannot be used.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=device).zero_()
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={device!r} cannot be used here: {str(error).splitlines()[0]}") from None
    return device


def hardware(device):
    """What a record says of a device: a GPU's name, or a CPU's and its number of cores."""
    if device != "cpu":
        return torch.cuda.get_device_name(device) if device.startswith("cuda") else device
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):  # not on macOS
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    return f"{name}, {os.cpu_count()} cores"
