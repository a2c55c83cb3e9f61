"""examples/quickstart.ipynb runs from top to bottom, on a tiny model and a text of one's own.

python -m pytest -q tests/train/test_notebook.py        # half a minute
"""

import os
from pathlib import Path

import pytest
import tiny

import metrics

nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
pytestmark = pytest.mark.slow
NOTEBOOK = tiny.ROOT / "examples" / "quickstart.ipynb"
TINY = "n_layer=1 n_head=1 n_embd=16 block_size=16 batch_size=4 max_iters=20 eval_interval=10 eval_iters=2 device=cpu"


def test_the_notebook_runs(tmp_path, monkeypatch):
    for name in ("JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    (tmp_path / "my.txt").write_text("To be, or not to be: that is the question.\n" * 50)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # it is committed as it is before it runs
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    names = [line.partition(" = ")[0] for line in parameters.source.splitlines()]
    values = tmp_path / "my.txt", tmp_path / "data", tmp_path / "out", " ".join(f"--{s}" for s in TINY.split())
    parameters.source = "\n".join(f"{name} = {str(value)!r}" for name, value in zip(names, values, strict=True))

    before = set(os.listdir(tiny.ROOT)) | set(os.listdir(tiny.ROOT / "data"))
    client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}})
    client.execute()
    assert set(os.listdir(tiny.ROOT)) | set(os.listdir(tiny.ROOT / "data")) == before

    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    text = "".join(output.get("text", "") for output in outputs)
    assert "error" not in text.lower() and "2,150 characters" in text
    assert any("image/png" in output.get("data", {}) for output in outputs)
    mada, adam = (metrics.read(str(Path(f"{tmp_path}/out{end}"))) for end in ("", "-adam"))
    assert (mada[0]["config"]["optimizer"], adam[0]["config"]["optimizer"]) == ("mada", "adam")
    assert mada[1][-1]["coefficients"]["beta1"] != 0.9 and f"mada {mada[1][-1]['val_loss']} " in text
    assert mada[1][-1]["iter"] == adam[1][-1]["iter"] == 20
    assert mada[1][-1]["val_loss"] < mada[1][0]["val_loss"]
    written = outputs[-1]["text"].replace("\r", "")  # a terminal ends lines so
    assert len(written) >= 300 and set(written) <= set("To be, or not to be: that is the question.\n")
