"""scripts/export.py: transformers has the same logits from the exported folder, and so has a GPT that is read back from it.

python -m pytest -q tests/train/test_export.py        # a few seconds
"""

import dataclasses

import pytest
import torch
from test_model import gpt, tokens

import checkpoints

transformers = pytest.importorskip("transformers")
GPT2_META = {"tokenizer": "gpt2", "vocab_size": 50257}


def checkpoint(path, gpt, meta):
    torch.save({"model": gpt.state_dict(), "model_config": dataclasses.asdict(gpt.config), "data": meta}, path)
    return path


def noisy(gpt):
    """Its biases and layer norms, which are 0 and 1 in a new model, must go to the right places, too."""
    with torch.no_grad():
        for p in gpt.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    return gpt


@pytest.mark.parametrize("bias", [True, False])
def test_the_exported_folder_has_the_same_logits(script, tmp_path, bias):
    ours = noisy(gpt(bias=bias, vocab_size=97))
    path = checkpoint(tmp_path / "ckpt.pt", ours, {"tokenizer": "char", "vocab_size": 3, "chars": "\nab"})
    folder = tmp_path / "out"
    assert script("export", path, folder)[:2] == (0, f"{folder}\n")
    assert sorted(file.name for file in folder.iterdir() if file.name != "generation_config.json") == [
        "README.md",
        "config.json",
        "model.safetensors",
    ]
    assert "in this order: '\\nab'" in (folder / "README.md").read_text() and not list(tmp_path.glob("*.part"))

    theirs, loading = transformers.GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())  # no key is missing, left over or of another shape
    again, _meta = checkpoints.load(str(folder))
    x = tokens(3, 16, 97)
    with torch.no_grad():
        logits = ours(x)
        assert logits.std() > 0.5
        torch.testing.assert_close(theirs.eval()(x).logits, logits, atol=1e-5, rtol=1e-5)
        assert torch.equal(again(x), logits) or not bias
        torch.testing.assert_close(again(x), logits, atol=1e-6, rtol=1e-6)
    if not bias:
        assert all((p == 0).all() for name, p in theirs.named_parameters() if name.endswith("bias"))


def test_the_vocabulary_stays_and_the_note_says_which_ids_are_real(script, tmp_path):
    path = checkpoint(tmp_path / "ckpt.pt", gpt(vocab_size=50304, n_layer=1, n_embd=4), GPT2_META)
    assert script("export", path, tmp_path / "out")[0] == 0
    note = (tmp_path / "out" / "README.md").read_text()
    assert 'from_pretrained("gpt2")' in note and "50,304 ids; those from 50,257 on" in note
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.vocab_size, config.eos_token_id, config.n_positions) == (50304, 50256, 16)


def test_nothing_is_overwritten_or_half_there(script, tmp_path, monkeypatch):
    path = checkpoint(tmp_path / "ckpt.pt", gpt(), {"tokenizer": "char", "vocab_size": 30, "chars": "a"})
    (tmp_path / "there").mkdir()
    status, _, error = script("export", path, tmp_path / "there")
    assert status == 2 and error == f"export.py: {tmp_path}/there exists already\n"

    def full(self, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(transformers.GPT2LMHeadModel, "save_pretrained", full)
    status, _, error = script("export", path, tmp_path / "out")
    assert status == 2 and error.count("\n") == 1 and "No space left" in error and not (tmp_path / "out").exists()
    status, _, error = script("export", tmp_path / "none.pt", tmp_path / "out")
    assert status == 2 and "none.pt: no model can be read from it" in error
