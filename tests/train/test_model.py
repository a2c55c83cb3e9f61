"""model.py is GPT-2: transformers' logits, OpenAI's initialization and sizes, and sampling that does as it is told.

python -m pytest -q tests/train/test_model.py        # a few seconds
"""

import dataclasses
import math

import pytest
import torch

from model import GPT, GPTConfig, peak_flops
from pretrained import load
from settings import UserError

TINY = GPTConfig(block_size=16, vocab_size=30, n_layer=2, n_head=2, n_embd=16)


def gpt(seed=0, **sizes):
    torch.manual_seed(seed)
    return GPT(dataclasses.replace(TINY, **sizes)).eval()


def tokens(batch, length, vocab_size=30):
    return torch.randint(vocab_size, (batch, length), generator=torch.Generator().manual_seed(1))


def test_logits_and_loss_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=97, n_positions=24, n_embd=32, n_layer=3, n_head=4, initializer_range=0.3)
    ).eval()
    with torch.no_grad():
        for name, p in theirs.named_parameters():  # biases and layer norms, too, must go to the right places
            if p.dim() == 1:
                p.add_(torch.randn_like(p), alpha=0.3)
    ours = GPT.from_transformers(theirs).eval()
    x = tokens(3, 24, 97)
    with torch.no_grad():
        expected = theirs(x)
        assert expected.logits.std() > 0.5
        torch.testing.assert_close(ours(x), expected.logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours(x[:, :7]), expected.logits[:, :7], atol=1e-5, rtol=1e-5)  # causal
        torch.testing.assert_close(ours(x[:, :-1], x[:, 1:]), theirs(x, labels=x).loss, atol=1e-5, rtol=1e-5)
    assert sum(p.numel() for p in ours.parameters()) == theirs.num_parameters()


@pytest.mark.parametrize("bias", [True, False])
def test_initialization_is_gpt2s(bias):
    model = gpt(n_layer=8, n_embd=64, vocab_size=500, block_size=64, bias=bias)
    for name, p in model.named_parameters():
        if name.endswith("c_proj.weight"):
            assert p.std().item() == pytest.approx(0.02 / math.sqrt(2 * 8), rel=0.05), name
        elif p.dim() == 2:
            assert p.std().item() == pytest.approx(0.02, rel=0.05), name
        else:
            assert (p == (1.0 if "ln_" in name and name.endswith("weight") else 0.0)).all(), name
    assert bias == any(name.endswith("bias") for name, _ in model.named_parameters())
    x = tokens(8, 64, 500)
    assert model(x[:, :-1], x[:, 1:]).item() == pytest.approx(math.log(500), abs=0.05)


def test_the_output_layer_is_the_embedding():
    model = gpt()
    assert model.lm_head.weight is model.transformer.wte.weight
    assert len(list(model.parameters())) == len({p.data_ptr() for p in model.parameters()})
    again = gpt(seed=1)
    again.load_state_dict(model.state_dict())
    assert again.lm_head.weight is again.transformer.wte.weight
    assert torch.equal(again(tokens(2, 16)), model(tokens(2, 16)))


@pytest.mark.parametrize(
    "sizes, parameters, without_positions",
    [
        (
            {"vocab_size": 65, "block_size": 256, "n_layer": 6, "n_head": 6, "n_embd": 384, "bias": False},
            10_745_088,
            10_646_784,
        ),
        ({"vocab_size": 50257}, 124_439_808, 123_653_376),
        ({"vocab_size": 50257, "n_layer": 24, "n_head": 16, "n_embd": 1024}, 354_823_168, 353_774_592),
        ({"vocab_size": 50257, "n_layer": 48, "n_head": 25, "n_embd": 1600}, 1_557_611_200, 1_555_972_800),
    ],
    ids=["11M", "124M", "355M", "1.5B"],
)
def test_sizes(sizes, parameters, without_positions):
    """OpenAI's counts (transformers' num_parameters() of gpt2, gpt2-medium, gpt2-xl) and nanoGPT's for Shakespeare."""
    with torch.device("meta"):
        model = GPT(GPTConfig(**sizes))
    assert sum(p.numel() for p in model.parameters()) == parameters
    assert model.num_params() == without_positions


def test_flops_are_twice_the_multiplications_of_forward_and_backward():
    """2 FLOPs per entry and token in each of a matrix's 3 products, and in attention's 3 x 2 of block_size x n_embd."""
    from torch.utils.flop_counter import FlopCounterMode

    model = gpt(n_embd=64, n_head=1, block_size=32, bias=False, vocab_size=64)
    x = tokens(2, 32)
    with FlopCounterMode(display=False) as counter, torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        model(x, x).backward()
    norms = sum(p.numel() for p in model.parameters() if p.dim() < 2)  # counted with the parameters, but no products
    assert counter.get_total_flops() / x.numel() == pytest.approx(
        model.flops_per_token(model.config.block_size) - 6 * norms, rel=0.02
    )


@pytest.mark.parametrize(
    "name, peak",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA GH200 480GB", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Tesla V100-SXM2-16GB", 125e12),
        ("NVIDIA GeForce RTX 4090", 165e12),
        ("NVIDIA B200", 2250e12),
        ("Tesla T4", None),
        ("NVIDIA L40", None),
        ("NVIDIA A4000", None),
        ("NVIDIA GB200", None),
        ("cpu", None),
    ],
)
def test_peak_flops(name, peak):
    assert peak_flops(name) == peak


# sampling


def test_greedy_sampling_takes_the_likeliest_and_draws_nothing():
    model, start = gpt(), tokens(2, 3)
    before = torch.get_rng_state()
    out = model.generate(start, 5, temperature=0)
    assert torch.equal(before, torch.get_rng_state())
    assert out.shape == (2, 8) and torch.equal(out[:, :3], start)
    for i in range(3, 8):
        assert torch.equal(out[:, i], model(out[:, :i])[:, -1].argmax(-1))
    assert torch.equal(out, model.generate(start, 5, temperature=1.0, top_k=1))


def test_sampling_follows_temperature_and_top_k():
    model, start = gpt(), tokens(1, 4).expand(4000, 4)
    model.lm_head.weight.data *= 40  # far from uniform
    logits = model(start[:1])[0, -1]
    for temperature, top_k in ((1.0, None), (0.5, None), (1.0, 3), (2.0, 100)):
        torch.manual_seed(0)
        drawn = model.generate(start, 1, temperature, top_k)[:, -1]
        kept = (
            logits if top_k is None else logits.masked_fill(logits < logits.topk(min(top_k, 30)).values[-1], -torch.inf)
        )
        expected = (kept / temperature).softmax(-1)
        torch.testing.assert_close(drawn.bincount(minlength=30) / 4000, expected, atol=0.03, rtol=0)
        assert expected[drawn].min() > 0


def test_sampling_stays_below_the_vocabulary_limit():
    torch.manual_seed(0)
    model = gpt()
    assert model.generate(tokens(200, 2), 1)[:, -1].max() >= 5
    assert model.generate(tokens(200, 2), 3, vocab_size=5)[:, 2:].max() < 5
    assert model.generate(tokens(200, 2), 3, top_k=20, vocab_size=5)[:, 2:].max() < 5


def test_sampling_goes_on_beyond_the_context():
    model, start = gpt(), tokens(1, 25)
    out = model.generate(start, 20, temperature=0)
    assert out.shape == (1, 45)
    assert out[0, -1] == model(out[:, -17:-1])[0, -1].argmax()
    with pytest.raises(ValueError, match="17 tokens do not fit the context of 16"):
        model(tokens(1, 17))


def test_dropout_is_for_training_only():
    model, x = gpt(dropout=0.5), tokens(2, 16)
    assert torch.equal(model(x), model(x)) and torch.equal(model(x), gpt()(x))
    model.train()
    assert not torch.equal(model(x), model(x))


# loading


@pytest.mark.parametrize(
    "files, named",
    [
        (["ckpt.pt"], "ckpt.pt"),
        (["ckpt_last.pt"], ""),
        (["ckpt_prev.pt", "ckpt_last.pt", "ckpt_best.pt"], ""),
    ],
)
def test_a_checkpoint_loads_by_its_name_or_by_its_folder(tmp_path, files, named):
    of_data = {"tokenizer": "char", "vocab_size": TINY.vocab_size}
    for seed, name in enumerate(files):
        model = gpt(seed)  # that of the last file is to be loaded
        state = {"model": model.state_dict(), "model_config": dataclasses.asdict(TINY), "data": of_data}
        torch.save(state, tmp_path / name)
    loaded, meta = load(str(tmp_path / named))
    assert loaded.config == TINY and meta == of_data
    assert torch.equal(loaded.eval()(tokens(2, 16)), model(tokens(2, 16)))


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"no checkpoint",
        {},
        {"model_config": {"n_layer": 1, "n_head": 5}},
        [1, 2],
        {"model_config": dataclasses.asdict(TINY), "model": {}, "data": {}},
        {"model_config": {"x": 1}},
    ],
)
def test_what_is_no_checkpoint_is_an_error_of_one_line(tmp_path, content):
    path = tmp_path / "ckpt.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match="ckpt.pt: no model can be read from it: .+") as error:
        load(str(path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["gpt2", "openai-community/gpt2-xl", "some/folder"])
def test_what_is_fetched_is_of_one_revision(monkeypatch, name):
    transformers, asked = pytest.importorskip("transformers"), []

    def fetch(*args, **kwargs):
        asked.append((args, kwargs))
        raise OSError("no network")

    monkeypatch.setattr(transformers.GPT2LMHeadModel, "from_pretrained", fetch)
    with pytest.raises(OSError):
        GPT.from_pretrained(name)
    revision = asked[0][1]["revision"]
    assert asked[0][0] == (name,) and (len(revision) == 40 if "gpt2" in name else revision == "main")


def test_a_folder_without_a_model_is_an_error_of_one_line(tmp_path):
    with pytest.raises(UserError, match="no model can be read from it: .+"):
        load(str(tmp_path))


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointed_activations_change_neither_losses_nor_gradients(dropout):
    def losses_and_gradients(checkpoint_activations):
        model, x, blocks = gpt(dropout=dropout).train(), tokens(2, 17), []
        model.checkpoint_activations = checkpoint_activations
        model.transformer.h[0].mlp.register_forward_pre_hook(lambda *_: blocks.append(1))
        torch.manual_seed(2)
        loss = model(x[:, :-1], x[:, 1:])
        loss.backward()
        assert len(blocks) == 1 + checkpoint_activations  # the forward pass, and the backward pass once more
        return [loss, *(p.grad for p in model.parameters())]

    assert all(map(torch.equal, losses_and_gradients(False), losses_and_gradients(True)))
