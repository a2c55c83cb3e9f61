"""The wheel that `pip install .` builds: in a fresh environment, outside the repo, `mada` trains with compiled loops.

python -m pytest tests/test_install.py
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

TRAIN = """
import pathlib, sys, warnings
import torch, mada
from mada import MADA, HyperAdam, AVGrad, Yogi, Adan, Lion, ParameterizedOptimizer
assert pathlib.Path(mada.__file__).is_relative_to(sys.prefix), mada.__file__
warnings.simplefilter("error")  # a loop that cannot be compiled warns
torch.manual_seed(0)
x, y = torch.randn(64, 4), torch.randn(64, 1)
for cls in (MADA, HyperAdam, AVGrad, Yogi, Adan, Lion):
    model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    optimizer = cls(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(50):
        loss = torch.nn.functional.mse_loss(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0], (cls, losses)
print("trained")
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy of what is needed for it, so that building leaves nothing in the repo."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "optim", folder / "optim", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, folder]
    subprocess.run(command, check=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_folder_optim_as_mada_and_nothing_else(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    ours = {f"mada/{path.relative_to(ROOT / 'optim')}" for path in (ROOT / "optim").rglob("*.py")}
    assert names == ours | {"mada/py.typed"}


def test_it_trains_in_a_fresh_environment(wheel, tmp_path):
    venv.create(tmp_path / "fresh", with_pip=False)
    python = tmp_path / "fresh/bin/python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True)
    (site,) = (tmp_path / "fresh").glob("lib/python*/site-packages")
    (site / "torch.pth").write_text(sysconfig.get_path("purelib"))  # torch alone would take minutes to install
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", TRAIN], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "trained\n", done.stderr


def test_requirements_pin_what_the_extras_name():
    def name(requirement):
        return re.match(r"[\w.-]+", requirement)[0]

    lines = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    assert all("==" in line for line in lines if line)
    extras = PROJECT["optional-dependencies"]
    del extras["clients"]  # what other people's code may be used with
    del extras["kernels"]  # Triton: CUDA builds of torch bring the version that they need
    needed = {name(line) for line in sum(extras.values(), PROJECT["dependencies"])}
    assert {name(line) for line in lines if line} == needed


@pytest.mark.slow
def test_importing_adds_little_to_torchs_import():
    """Less than 0.2 s, by the interpreter's own clock; what takes longer is imported when it is needed."""
    code = "import torch, time; start = time.process_time(); import optim; print(time.process_time() - start)"
    seconds = [float(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT)) for _ in range(3)]
    assert min(seconds) < 0.2
