"""Checkpoints of train.py: one file of whole tensors and plain containers, whatever the number of processes."""

import os
from pickle import UnpicklingError

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from config import UserError


def write(state, path):
    """The file is complete or not there: a run that is killed meanwhile keeps its previous checkpoint."""
    torch.save(state, path + ".part")
    os.replace(path + ".part", path)


def read(path, names=("model", "optimizer", "scaler", "iter", "best_val_loss", "config", "model_config")):
    """What `write` wrote under these names, on the CPU. Raises UserError where that cannot be read."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        return {name: checkpoint[name] for name in names}
    except (OSError, EOFError, KeyError, TypeError, RuntimeError, UnpicklingError) as error:
        raise UserError(f"{path} is not a checkpoint of this script: {str(error).splitlines()[0]}") from None


def whole(state):
    """A state dict with every sharded tensor made whole, so that a checkpoint does not depend on the number of ranks."""
    return tree_map(lambda x: x.full_tensor() if isinstance(x, DTensor) else x, state)


def shared_out(state, params):
    """An optimizer's state dict, its tensors sharded as the parameters they belong to: undoes `whole`."""
    def like(x, p):
        return distribute_tensor(x, p.device_mesh, p.placements) if isinstance(p, DTensor) and x.shape == p.shape else x

    return state | {"state": {i: {name: like(x, params[i]) for name, x in entry.items()}
                              for i, entry in state["state"].items()}}
