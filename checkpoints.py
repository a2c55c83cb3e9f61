"""Checkpoints of the training scripts: files of whole tensors and plain containers, whatever the number of processes."""

import os
from pickle import UnpicklingError

import torch
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map

from settings import UserError

TRAINING = ("model", "optimizer", "scaler", "iter", "best_val_loss", "config", "model_config")  # what train.py saves
THIS_TIME = ("out_dir", "overwrite", "init_from", "stop_after")  # settings of one invocation, not of the run


def write(state, path):
    """The file is complete or not there: a run that is killed meanwhile keeps its previous checkpoint."""
    torch.save(state, path + ".part")
    os.replace(path + ".part", path)


def read(path, names=TRAINING):
    """What `write` wrote under these names, on the CPU. Raises UserError where that cannot be read."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        return {name: checkpoint[name] for name in names}
    except (OSError, EOFError, KeyError, TypeError, RuntimeError, UnpicklingError) as error:
        raise UserError(f"{path} is not a checkpoint of this script: {str(error).splitlines()[0]}") from None


def start(cfg, given, kept, names=TRAINING):
    """Where a run starts, by its settings init_from, out_dir and overwrite: (checkpoint to resume or None, settings).

    A resumed run has its own settings, but those in `given`, which must not contradict the `kept` ones. Raises UserError.
    """
    last = os.path.join(cfg["out_dir"], "ckpt_last.pt")
    if cfg["init_from"] != "resume":
        if os.path.exists(last) and not cfg["overwrite"]:
            raise UserError(
                f"out_dir={cfg['out_dir']!r} holds another run: go on with --init_from=resume, name another "
                "--out_dir, or lose it with --overwrite=True"
            )
        return None, cfg
    if not os.path.exists(last):
        raise UserError(
            f"init_from='resume': there is no {last}; start with --init_from=scratch, or name the --out_dir"
        )
    checkpoint = read(last, names)
    before = checkpoint["config"]
    for name in kept:
        if name in given and cfg[name] != before[name]:
            raise UserError(f"{name}={cfg[name]!r}: a resumed run keeps its {name}={before[name]!r}; leave it out")
    return checkpoint, cfg | {name: value for name, value in before.items() if name not in {*given, *THIS_TIME}}


def whole(state):
    """A state dict with every sharded tensor made whole, so that a checkpoint does not depend on the number of ranks."""
    return tree_map(lambda x: x.full_tensor() if isinstance(x, DTensor) else x, state)


def shared_out(state, params):
    """An optimizer's state dict, its tensors sharded as the parameters they belong to: undoes `whole`."""

    def like(x, p):
        return distribute_tensor(x, p.device_mesh, p.placements) if isinstance(p, DTensor) and x.shape == p.shape else x

    return state | {
        "state": {i: {name: like(x, params[i]) for name, x in entry.items()} for i, entry in state["state"].items()}
    }
