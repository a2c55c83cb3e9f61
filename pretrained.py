"""Models that have been trained, by name: a checkpoint, a run's folder, one that scripts/export.py wrote, or "gpt2"."""

import json
import os

from checkpoints import BEST, LAST, read
from devices import resolve_device
from model import GPT, GPTConfig
from settings import UserError

GPT2 = {"tokenizer": "gpt2", "vocab_size": 50257}  # its tokens


def load(name: str, device: str = "cpu") -> tuple[GPT, dict]:
    """A checkpoint of train.py, a run's out_dir (its best, or its only one), "gpt2", ... -> model, meta of its tokens.

    The model is on the device ("auto": see devices.py), in evaluation mode. Raises UserError if there is no such model,
    checkpoint or device.
    """
    device = resolve_device(device)
    name = next((path for it in (BEST, LAST) if os.path.exists(path := os.path.join(name, it))), name)
    try:
        if name.endswith(".pt"):
            saved = read(name, ("model_config", "data", "model"))
            model, meta = GPT(GPTConfig(**saved["model_config"])), saved["data"]
            model.load_state_dict(saved["model"])
        else:
            model, meta = GPT.from_pretrained(name), GPT2 | pretrained_tokens(name)
        if type(meta.get("vocab_size")) is not int or not 1 <= meta["vocab_size"] <= model.config.vocab_size:
            raise ValueError(f"vocab_size={meta.get('vocab_size')!r} of its data is invalid")
        return model.to(device).eval(), meta
    except Exception as error:  # noqa: BLE001 a file's sizes, or the library that downloads, may fail in any way
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].removeprefix(f"{name} ")
        raise UserError(f"{name}: no model can be read from it: {reason}") from None


def pretrained_tokens(name: str) -> dict:
    """What the tokens of a pretrained model are, as in a meta.json; {} for a folder that does not say it."""
    exported = os.path.join(name, "meta.json")  # scripts/export.py writes it
    if os.path.exists(exported):
        try:
            with open(exported) as file:
                return json.load(file)
        except (OSError, ValueError):
            raise UserError(f"{exported} is damaged: export the model again") from None
    return {} if os.path.isdir(name) else GPT2


def check_tokens(name: str, meta: dict, model: dict) -> None:
    """Raises UserError if a data set has other tokens than a model knows; meta, model: the meta.json of either."""
    if any(meta.get(key) != model.get(key) for key in ("tokenizer", "chars")):
        kinds = meta.get("tokenizer"), model.get("tokenizer")
        raise UserError(f"{name} has other tokens ({kinds[0]}) than the model knows ({kinds[1]})")
