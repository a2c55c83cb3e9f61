"""The recipes of docs/clients.md do what they say, with the real libraries, and clipping outside is noticed.

python -m pytest tests/clients/test_recipes.py      # pip install accelerate lightning, or their recipes are skipped
"""

import re
import types
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

import optim
from optim import MADA, HyperAdam

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "clients.md").read_text()
RECIPES = {
    title.strip(): code
    for title, code in re.findall(r"^## (.+?)\n.*?```python\n(.*?)```", PAGE, flags=re.DOTALL | re.MULTILINE)
}
START = MADA([torch.zeros(1, requires_grad=True)]).coefficients


def run(title, folder, model=None, **more):
    """The names that a recipe leaves, after it has run on a small problem; clipping outside the step is an error."""

    def refuse(parameters, max_norm, *args, **kwargs):
        assert max_norm == float("inf"), "it clips outside: pass max_grad_norm to MADA alone"
        return clip_to_infinity(parameters, max_norm, *args, **kwargs)  # to read the norm

    clip_to_infinity = torch.nn.utils.clip_grad_norm_
    torch.manual_seed(0)
    model = model or nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(80, 4)
    dataset = torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True).sin())
    loader = torch.utils.data.DataLoader(dataset, batch_size=8)
    names = {
        "torch": torch,
        "MADA": MADA,
        "mada": optim,
        "model": model,
        "folder": folder,
        "loader": loader,
        "device": "cpu",
    }
    names |= {"batches": list(loader), "loss_of": nn.functional.mse_loss, "dataset": dataset} | more
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.nn.utils, "clip_grad_norm_", refuse)
        exec(compile(RECIPES[title], title, "exec"), names)  # noqa: S102
    return types.SimpleNamespace(**names)


@pytest.mark.parametrize("title", ["Plain torch, and timm-like loops", "Mixed precision"])
def test_loops_of_ones_own(title, tmp_path):
    left = run(title, tmp_path)
    assert left.optimizer.coefficients != START and float(left.optimizer.grad_norm) > 0


def test_trainer(tmp_path):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 1)

        def forward(self, x, labels):
            return {"loss": (self.layer(x) - labels).square().mean()}

    x = torch.randn(80, 4)
    rows = [{"x": a, "labels": a.sum().sin()[None]} for a in x]
    left = run("transformers.Trainer", tmp_path, Model(), transformers=transformers, dataset=rows)
    assert 0 < left.trainer.state.log_history[0]["beta1"] < 1
    assert left.optimizer.coefficients != START
    (saved,) = tmp_path.glob("checkpoint-10/optimizer.pt")
    other = MADA(left.model.parameters())
    other.load_state_dict(torch.load(saved))
    assert other.coefficients == left.optimizer.coefficients


@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path):
    lightning = pytest.importorskip("lightning")
    left = run("Lightning", tmp_path, lightning=lightning)
    (optimizer,) = left.trainer.optimizers
    assert optimizer.coefficients != START
    assert 0 < left.trainer.callback_metrics["beta1"] < 1
    saved = torch.load(tmp_path / "lightning.ckpt", weights_only=True)["optimizer_states"][0]
    assert saved["param_groups"][0]["coefficients"].tolist() == list(optimizer.coefficients.values())


def test_accelerate(tmp_path):
    left = run("accelerate", tmp_path, accelerate=pytest.importorskip("accelerate"))
    assert optim.coefficients(left.optimizer) != START
    before = optim.coefficients(left.optimizer)
    left.optimizer.optimizer.param_groups[0]["coefficients"].fill_(0.5)
    left.accelerator.load_state(tmp_path / "state")
    assert optim.coefficients(left.optimizer) == before


def test_from_adamw(tmp_path):
    left = run("From AdamW's checkpoint", tmp_path)
    assert left.optimizer.coefficients["beta2"] == 0.999 and left.optimizer.param_groups[0]["lr"] == 3e-4


def worker(rank, folder):
    torch.set_num_threads(1)
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
    from torch.distributed.fsdp import fully_shard

    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    names = {
        "fully_shard": fully_shard,
        "get_optimizer_state_dict": get_optimizer_state_dict,
        "set_optimizer_state_dict": set_optimizer_state_dict,
    }
    mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (2,))
    names["fully_shard"] = lambda model: fully_shard(model, mesh=mesh)
    seen = [
        run(title, Path(folder), **names).optimizer.coefficients
        for title in ("DDP", "FSDP2 and distributed checkpoints")
    ]
    torch.save(seen, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.slow
def test_ddp_and_fsdp2(tmp_path):
    torch.multiprocessing.spawn(worker, (str(tmp_path),), nprocs=2)
    zero, one = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert zero == one and all(q != START for q in zero)


# -- coefficients under wrappers ------------------------------------------------------------------------------------


def test_coefficients_are_found_under_any_number_of_wrappers():
    inner = HyperAdam([torch.zeros(1, requires_grad=True)])
    wrapped = types.SimpleNamespace(_optimizer=types.SimpleNamespace(optim=types.SimpleNamespace(optimizer=inner)))
    assert optim.coefficients(wrapped) == optim.coefficients(inner) == inner.coefficients


def test_where_there_are_none_it_is_said():
    adamw = torch.optim.AdamW([torch.zeros(1, requires_grad=True)])
    with pytest.raises(TypeError, match="no coefficients in SimpleNamespace around AdamW"):
        optim.coefficients(types.SimpleNamespace(optimizer=adamw))
    loop = types.SimpleNamespace()
    loop.optimizer = loop
    with pytest.raises(TypeError, match="no coefficients"):
        optim.coefficients(loop)


# -- clipping outside -----------------------------------------------------------------------------------------------


def noisy(optimizer, p, limit, steps=30):
    make = torch.Generator().manual_seed(0)
    for _ in range(steps):
        p.grad = 3 * torch.randn(p.shape, generator=make, dtype=p.dtype)
        nn.utils.clip_grad_norm_([p], limit)
        optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("limit", [0.25, 1.0, 5.0])
def test_clipping_outside_is_noticed_once(limit, dtype):
    p = torch.zeros(1000, dtype=dtype, requires_grad=True)
    message = f"clipped to norm {limit:g} already.*Pass max_grad_norm={limit:g} to MADA"
    with pytest.warns(UserWarning, match=message) as caught:
        noisy(MADA([p], hyper_scale="raw"), p, limit)
    assert len([w for w in caught if "clipped" in str(w.message)]) == 1


@pytest.mark.parametrize("scale", ["relative", "raw"])
def test_what_clipping_outside_costs(scale, recwarn):
    """Nothing under the default, whose hyper-gradients keep their size; under "raw" they shrink as the gradients do."""
    learned = []
    for outside in (False, True):
        p = torch.zeros(1000, dtype=torch.float64, requires_grad=True)
        optimizer = MADA([p], hyper_scale=scale, max_grad_norm=None if outside else 1.0)
        noisy(optimizer, p, 1.0 if outside else torch.inf)
        learned.append(optimizer.coefficients["beta1"] - 0.9)
    if scale == "relative":
        assert learned[0] == pytest.approx(learned[1], rel=1e-4) and abs(learned[0]) > 1e-4
        assert not [w for w in recwarn if "clipped" in str(w.message)]
    else:
        assert abs(learned[1]) < 0.1 * abs(learned[0])


@pytest.mark.parametrize("gradient", ["noisy", "constant", "zero", "slow"])
def test_no_false_alarm(gradient, recwarn):
    p = torch.zeros(100, requires_grad=True)
    optimizer = MADA([p], max_grad_norm=1.0, hyper_scale="raw")
    make = torch.Generator().manual_seed(0)
    for t in range(30):
        p.grad = {
            "noisy": torch.randn(100, generator=make),
            "constant": torch.full((100,), 0.1),
            "zero": torch.zeros(100),
            "slow": torch.full((100,), 0.1371 + 1e-6 * t),
        }[gradient]
        optimizer.step()
    assert not [w for w in recwarn if "clipped" in str(w.message)]
