"""scripts/export.py: transformers has the same logits, ids and texts from the exported folder, and so have our scripts.

python -m pytest -q tests/train/test_export.py        # a few seconds
"""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from safetensors import SafetensorError
from test_model import gpt, tokens

import model
import pretrained
import train
from data.tokenizers import tokenizer
from settings import UserError

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
    assert sorted(file.name for file in folder.iterdir()) == [
        "README.md",
        "config.json",
        "generation_config.json",
        "meta.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert not list(tmp_path.glob("*.part"))

    theirs, loading = transformers.GPT2LMHeadModel.from_pretrained(folder, output_loading_info=True)
    assert not any(loading.values())  # no key is missing, left over or of another shape
    again, meta = pretrained.load(str(folder))
    assert meta == {"tokenizer": "char", "vocab_size": 3, "chars": "\nab"}
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
    assert "GPT-2 of 201,532 parameters" in note
    assert "`AutoTokenizer`" in note and "50,304 ids; those from 50,257 on" in note
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.vocab_size, config.eos_token_id, config.n_positions) == (50304, 50256, 16)


CHARS = "\n !'?.,abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZéß世界🎉\t\u0301"
METAS = {
    "gpt2": GPT2_META,
    "bytes": {"tokenizer": "bytes", "vocab_size": 257},
    "char": {"tokenizer": "char", "vocab_size": len(CHARS), "chars": CHARS},
}
TEXTS = ["It's   a text.\n\n\tNo, don't!", "café 世界🎉 e\u0301", "", "  ", " leading and trailing \n"]


@pytest.mark.parametrize("kind", METAS)
def test_transformers_has_the_same_ids_for_the_same_text(script, tmp_path, kind):
    path = checkpoint(tmp_path / "ckpt.pt", gpt(vocab_size=METAS[kind]["vocab_size"], n_layer=1, n_embd=4), METAS[kind])
    assert script("export", path, tmp_path / "out")[0] == 0
    ours, theirs = tokenizer(METAS[kind]), transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert len(theirs) == METAS[kind]["vocab_size"] and theirs.model_max_length == 16
    assert theirs.eos_token_id == ours.end == {"gpt2": 50256, "bytes": 256, "char": None}[kind]
    for text in TEXTS if kind == "char" else [*TEXTS, "one<|endoftext|>\ntwo<|endoftext|>"]:
        ids = ours.encode(text)
        assert theirs(text)["input_ids"] == ids and theirs.decode(ids) == ours.decode(ids) == text
    plain = "<|endoftext|>"  # in a data set it is text
    if kind != "char":
        assert (
            ours.end not in ours.encode_ordinary(plain) and ours.decode(ours.encode_ordinary(plain).tolist()) == plain
        )
    expected = {
        "gpt2": lambda text: ours.bpe.encode_ordinary(text),
        "bytes": lambda text: list(text.encode()),
        "char": lambda text: [CHARS.index(char) for char in text],
    }[kind]
    assert all(ours.encode_ordinary(text).tolist() == expected(text) for text in TEXTS)


def test_a_folder_that_is_no_gpt2_or_damaged_is_one_line(script, tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    transformers.BertModel(transformers.BertConfig(vocab_size=11, **sizes)).save_pretrained(tmp_path / "bert")
    path = checkpoint(tmp_path / "ckpt.pt", gpt(vocab_size=257, n_layer=1, n_embd=4), METAS["bytes"])
    assert script("export", path, tmp_path / "out")[0] == 0
    (tmp_path / "out" / "meta.json").write_text("{")
    cut = tmp_path / "cut"
    cut.mkdir()
    for file in (tmp_path / "out").iterdir():
        (cut / file.name).write_bytes(file.read_bytes()[: 100 if file.suffix == ".safetensors" else None])
    for name, words in (("bert", "it is not a GPT-2"), ("out", "meta.json is damaged: export"), ("cut", "cut")):
        with pytest.raises(UserError, match=words) as error:
            pretrained.load(str(tmp_path / name))
        assert "\n" not in str(error.value)
        with pytest.raises(UserError, match=words):
            cfg = SimpleNamespace(seed=1, init_from=str(tmp_path / name), dropout=0.0, block_size=16)
            train.make_model(cfg, None, 11)
            train.pretrained_tokens(cfg.init_from)


@pytest.mark.parametrize(
    "name, value",
    [("scale_attn_by_inverse_layer_idx", True), ("activation_function", "gelu"), ("layer_norm_epsilon", 1e-6)],
)
def test_a_gpt2_that_computes_otherwise_is_refused(name, value):
    config = transformers.GPT2Config(vocab_size=11, n_positions=8, n_embd=4, n_layer=1, n_head=1, **{name: value})
    with pytest.raises(ValueError, match=f"it is another GPT-2: its {name} is {value!r}"):
        model.GPT.from_transformers(transformers.GPT2LMHeadModel(config))


@pytest.mark.parametrize("kind", METAS)
def test_transformers_writes_what_sample_writes(script, tmp_path, kind):
    """Greedily, from a model with more ids than the tokenizer, which would write them where it is not kept from it."""
    meta = METAS[kind] | {"source": "a test"}
    ours = noisy(gpt(vocab_size=meta["vocab_size"] + 7, block_size=64))
    with torch.no_grad():
        ours.lm_head.weight[-7:] *= 20
    path = checkpoint(tmp_path / "ckpt.pt", ours, meta)
    assert script("export", path, tmp_path / "out")[0] == 0
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert ours.generate(torch.tensor([words("It's")["input_ids"]]), 30, 0).max() >= meta["vocab_size"]
    for prompt in ("It's", "café", "\n"):
        arguments = "--prompt", prompt, "--tokens", 30, "--temperature", 0
        written = script("sample", path, *arguments)[1]
        ids = theirs.generate(**words(prompt, return_tensors="pt"), max_new_tokens=30, do_sample=False)[0]
        assert words.decode(ids).partition("<|endoftext|>")[0] + "\n" == written and len(written) > len(prompt) + 1
        assert script("sample", tmp_path / "out", *arguments)[1] == written


def test_a_model_of_bytes_begins_and_ends_a_document_by_itself(script, tmp_path, monkeypatch):
    """Half characters do not stop it."""
    asked = []

    def generate(self, tokens, *arguments):
        asked.append(tokens[0].tolist())
        return torch.cat([tokens, torch.tensor([[*"é".encode(), 0xC3, *b"x", 256, *b"y"]])], dim=1)

    monkeypatch.setattr(model.GPT, "generate", generate)
    path = checkpoint(tmp_path / "ckpt.pt", gpt(vocab_size=257), METAS["bytes"])
    assert script("sample", path) == (0, "é\ufffdx\n", "")
    assert script("sample", path, "--prompt", "ß<|endoftext|>") == (0, "ß<|endoftext|>é\ufffdx\n", "")
    assert asked == [[256], [*"ß".encode(), 256]]


def test_an_unknown_tokenizer_is_one_line(script, tmp_path):
    path = checkpoint(tmp_path / "ckpt.pt", gpt(), {"tokenizer": "words", "vocab_size": 30})
    for name, arguments in (("sample", [path]), ("export", [path, tmp_path / "out"])):
        status, _, error = script(name, *arguments)
        assert (status, error) == (2, f"{name}.py: tokenizer 'words' is not known: there are gpt2, bytes, char\n")
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_or_half_there(script, tmp_path, monkeypatch):
    path = checkpoint(
        tmp_path / "ckpt.pt", gpt(), {"tokenizer": "char", "vocab_size": 30, "chars": "abcdefghijklmnopqrstuvwxyz.,:;"}
    )
    (tmp_path / "there").mkdir()
    status, _, error = script("export", path, tmp_path / "there")
    assert status == 2 and error == f"export.py: {tmp_path}/there exists already\n"

    for kind in (OSError, SafetensorError):  # the second is what a full disk raises there

        def full(self, folder, kind=kind):
            raise kind(28, "No space left on device")

        monkeypatch.setattr(transformers.GPT2LMHeadModel, "save_pretrained", full)
        status, _, error = script("export", path, tmp_path / "out")
        assert status == 2 and error.count("\n") == 1 and "No space left" in error and not list(tmp_path.glob("out*"))
    status, _, error = script("export", tmp_path / "none.pt", tmp_path / "out")
    assert status == 2 and "none.pt: no model can be read from it" in error
