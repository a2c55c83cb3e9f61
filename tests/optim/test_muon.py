"""Muon's direction, the baseline of Muon and AdamW, and how a model's parameters are split for them.

python -m pytest tests/optim/test_muon.py
"""

import copy

import pytest
import torch
from every import ALL
from reference import optimizers as plain
from reference import problem
from torch import nn

import optim
from model import GPT, GPTConfig
from optim import MADA
from optim.groups import hidden_matrices, param_groups
from optim.muon import MuonAdamW, newton_schulz, orthogonalized

BFLOAT16 = (
    0.03  # of what torch's bfloat16 Newton-Schulz may differ from one in float32, relative to the root mean square
)


def plain_newton_schulz(matrix):
    """Five steps of X <- 3.4445 X - 4.7750 (X X^T) X + 2.0315 (X X^T)^2 X on G / |G|, by singular values."""
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    s = s / (s.square().sum().sqrt() + 1e-7)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return u @ torch.diag(s) @ v


@pytest.mark.parametrize("shape", [(5, 4), (4, 5), (6, 6), (1, 7), (3, 8), (9, 4)])
def test_newton_schulz_acts_on_singular_values(shape):
    matrices = torch.stack([problem.wave(shape, 0.7 + k, 0.1, 0.5) for k in range(3)])
    expected = torch.stack([plain_newton_schulz(matrix) for matrix in matrices])
    torch.testing.assert_close(newton_schulz(matrices), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(5, 4), (3, 2, 2)])
def test_the_direction_is_of_gradients_and_momentum_flattened_to_two_dimensions(shape):
    g, u = (torch.stack([problem.wave(shape, 0.7 + k, phase, 0.5) for k in range(2)]) for phase in (0.1, 0.9))
    for one, gi, ui in zip(orthogonalized(g, u), g, u, strict=True):
        nesterov = (gi + 0.95 * (0.95 * ui + gi)).reshape(shape[0], -1)
        expected = 0.2 * max(nesterov.shape) ** 0.5 * plain_newton_schulz(nesterov)
        torch.testing.assert_close(one, expected.reshape(shape), rtol=0, atol=1e-12)


def test_torchs_muon_is_its_direction():
    """To the rounding of torch's bfloat16, over ten steps with decay."""
    make = torch.Generator().manual_seed(0)
    start = {shape: torch.randn(shape, generator=make) for shape in ((32, 24), (16, 40))}
    ours = dict(start)
    theirs = {shape: p.clone().requires_grad_() for shape, p in start.items()}
    torchs = torch.optim.Muon(theirs.values(), lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    momenta = {shape: torch.zeros(shape) for shape in start}
    for _ in range(10):
        for shape, p in theirs.items():
            g = torch.randn(shape, generator=make)
            p.grad = g.clone()
            direction = orthogonalized(g[None], momenta[shape][None])[0]
            momenta[shape] = 0.95 * momenta[shape] + g
            ours[shape] = ours[shape] * (1 - 0.02 * 0.1) - 0.02 * direction
        torchs.step()
    for shape, p in theirs.items():
        moved = (ours[shape] - start[shape]).square().mean().sqrt()
        assert (ours[shape] - p.detach()).square().mean().sqrt() < BFLOAT16 * moved


def small_gpt():
    return GPT(GPTConfig(block_size=8, vocab_size=11, n_layer=2, n_head=2, n_embd=8, bias=True))


def test_hidden_matrices_of_our_gpt_are_those_of_its_blocks():
    model = small_gpt()
    names = {p: name for name, p in model.named_parameters()}
    assert {names[p] for p in hidden_matrices(model)} == {
        f"transformer.h.{i}.{name}.weight"
        for i in (0, 1)
        for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }


def test_hidden_matrices_of_timms_vision_transformer():
    model = pytest.importorskip("timm").create_model("vit_tiny_patch16_224", depth=1)
    names = {p: name for name, p in model.named_parameters()}
    assert {names[p].removeprefix("blocks.0.") for p in hidden_matrices(model)} == {
        "attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"}  # fmt: skip


def test_hidden_matrices_of_transformers_bert():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 11, "hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2}
    bert = transformers.BertForMaskedLM(transformers.BertConfig(**sizes, num_hidden_layers=1))
    names = {p: name for name, p in bert.named_parameters()}
    inside = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
              "intermediate.dense", "output.dense")  # fmt: skip
    expected = {f"bert.encoder.layer.0.{name}.weight" for name in inside} | {"cls.predictions.transform.dense.weight"}
    assert {names[p] for p in hidden_matrices(bert)} == expected  # the decoder is tied to the embedding


def test_hidden_matrices_of_transformers_gpt2():
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 11, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0))
    names = {p: name for name, p in gpt2.named_parameters()}
    assert {names[p].split(".", 3)[3] for p in hidden_matrices(gpt2)} == {
        "attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight"}  # fmt: skip
    untied = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(**sizes, tie_word_embeddings=False, bos_token_id=0, eos_token_id=0)
    )
    assert untied.lm_head.weight not in set(hidden_matrices(untied))


def test_convolutions_on_request():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 2))
    assert [p.shape for p in hidden_matrices(model)] == [(8, 16)]
    assert [p.shape for p in hidden_matrices(model, convolutions=True)] == [(4, 3, 3, 3), (8, 16)]


def test_a_weight_that_is_computed_is_left_alone():
    """Reading the weight of a layer under spectral_norm takes a step of its power iteration."""
    normed = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
    model = nn.Sequential(
        nn.Linear(4, 4), normed, nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2)
    )
    before = copy.deepcopy(model.state_dict())
    assert hidden_matrices(model) == [model[0].weight]
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())


def test_autocast_does_not_reach_the_step():
    g, u = torch.linspace(-1, 1, 24).view(1, 4, 6), torch.linspace(1, 2, 24).view(1, 4, 6)
    with torch.autocast("cpu", torch.bfloat16):
        inside = orthogonalized(g, u)
    assert torch.equal(inside, orthogonalized(g, u))


def test_an_adamw_checkpoint_starts_a_muon_of_matrices_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    groups = param_groups(model, verbose=False)
    adamw = torch.optim.AdamW(groups)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    adamw.step()
    mada = MADA(param_groups(model, verbose=False), mu=1.0, learn=())
    mada.load_state_dict(adamw.state_dict())
    (muons,), others = mada.param_groups[0]["params"], [p for group in groups[1:] for p in group["params"]]
    assert "m" not in mada.state[muons] and mada.state[muons]["u"].count_nonzero() == 0
    assert all(torch.equal(mada.state[p]["m"], adamw.state[p]["exp_avg"]) for p in others)


def test_the_groups_say_what_is_in_them(capsys):
    model = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 7))
    groups = param_groups(model, weight_decay=0.2)
    assert [(group["weight_decay"], group["muon"], [tuple(p.shape) for p in group["params"]]) for group in groups] == [
        (0.2, True, [(6, 4)]),
        (0.2, False, [(7, 4), (7, 6)]),
        (0.0, False, [(6,), (6,), (6,), (7,)]),
    ]
    printed = capsys.readouterr().out
    assert "hidden matrices (Muon): 24 parameters" in printed and "0.weight" in printed and "7x6" in printed
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    with pytest.raises(ValueError, match="lazy"):
        param_groups(nn.LazyLinear(3))


def trained(optimizer, model, steps):
    for t in steps:
        torch.manual_seed(t)
        tokens = torch.randint(0, 11, (4, 8))
        optimizer.zero_grad()
        model(tokens, tokens).backward()
        optimizer.step()


def test_muon_with_adamw_is_both_and_can_be_saved():
    model = small_gpt()
    parts = copy.deepcopy(model)
    groups = param_groups(parts, verbose=False)
    both = [
        torch.optim.Muon(groups[0]["params"], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups[1:], lr=0.01, betas=(0.9, 0.95)),
    ]
    ours = MuonAdamW(param_groups(model, verbose=False), lr=0.01)
    for t in range(1, 7):
        torch.manual_seed(t)
        tokens = torch.randint(0, 11, (4, 8))
        for part in both:
            part.zero_grad()
        parts(tokens, tokens).backward()
        for part in both:
            part.step()
        trained(ours, model, [t])
    torch.testing.assert_close(list(model.parameters()), list(parts.parameters()), rtol=0, atol=0)

    again = copy.deepcopy(model)
    fresh = MuonAdamW(param_groups(again, verbose=False), lr=0.5)
    fresh.load_state_dict(copy.deepcopy(ours.state_dict()))
    trained(ours, model, range(7, 10))
    trained(fresh, again, range(7, 10))
    torch.testing.assert_close(list(model.parameters()), list(again.parameters()), rtol=0, atol=0)


def test_schedulers_reach_both_parts():
    model = small_gpt()
    ours = MuonAdamW(param_groups(model, verbose=False), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(ours, lambda step: 0.0)
    before = [p.detach().clone() for p in model.parameters()]
    scheduler.step()
    trained(ours, model, [1])
    torch.testing.assert_close([p.detach() for p in model.parameters()], before, rtol=0, atol=0)


# Muon as a corner of MADA

START = {"beta1": 0.6, "beta2": 0.8, "beta3": 0.4, "rho": 0.5, "c": 0.6, "gamma": 0.7}
LR = {"W": 0.02, "b": 0.05, "U": 0.01}
EXACT = 1e-12  # absolute, in float64


def groups_of(params):
    return [{"params": [p], "lr": LR[name], "weight_decay": 0.1, "muon": p.dim() == 2} for name, p in params.items()]


@pytest.mark.parametrize("learn", [(), ("mu",), ("beta1", "beta2", "mu"), (*ALL, "mu")], ids="+".join)
@pytest.mark.parametrize("mu", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(
    "form", [{}, {"hyper_scale": "raw", "debias": "powers", "max_grad_norm": 0.5}], ids=["", "raw"]
)
def test_equals_an_independent_transcription(mu, learn, form):
    """Losses, hyper-gradients, coefficients and parameters over 12 steps; b, a vector, has no part in mu."""
    params, coefficients = problem.parameters(), START | {"mu": mu}
    six = {name: START[name] for name in ALL[2:]}
    ours = MADA(groups_of(params), betas=(0.6, 0.8), **six, mu=mu, learn=learn, hyper_lr=0.05, **form)
    relative = form.get("hyper_scale") != "raw"
    theirs = plain.HyperDescent(
        plain.mada_with_muon,
        problem.parameters(),
        coefficients,
        lr=LR,
        weight_decay=dict.fromkeys(LR, 0.1),
        learn=learn,
        hyper_lr=dict.fromkeys(coefficients, 0.05),
        hyper_momentum=dict.fromkeys(coefficients, 0.0),
        domain={**plain.DOMAIN, "beta2": (0.501, 0.9999 if relative else 0.99)},
        **{"hyper_scale": "relative", "debias": "weights"} | form,
    )
    for t in range(1, 13):
        (loss,) = problem.train(ours, params, [t])
        expected = theirs.step(lambda x, t=t: problem.loss(x, t))
        assert loss == pytest.approx(expected, abs=EXACT)
        known = {name: value for name, value in theirs.coefficients.items() if name in ours.coefficients}
        assert ours.coefficients == pytest.approx(known, abs=EXACT)
        assert ours.hyper_gradients == pytest.approx(
            {name: theirs.hyper_gradients[name] for name in known}, abs=1e3 * EXACT
        )
    torch.testing.assert_close(params, {name: x.detach() for name, x in theirs.x.items()}, rtol=0, atol=EXACT)
    if "mu" in learn and mu == 0.3:
        assert ours.coefficients["mu"] != mu


def test_mus_hyper_gradient_is_the_slope_of_the_next_loss():
    def run(mu, learn=()):
        params = problem.parameters()
        optimizer = MADA(groups_of(params), mu=mu, learn=learn, hyper_scale="raw", hyper_lr=0.0)
        problem.train(optimizer, params, [1])
        (loss,) = problem.train(optimizer, params, [2])
        return loss, optimizer.hyper_gradients["mu"]

    (low, _), (high, _) = run(0.4 - 1e-5), run(0.4 + 1e-5)
    assert run(0.4, ("mu",))[1] == pytest.approx((high - low) / 2e-5, rel=1e-6)


def test_at_one_with_all_else_fixed_it_is_torchs_muon():
    make = torch.Generator().manual_seed(0)
    start = torch.randn(32, 24, generator=make)
    ours, theirs = start.clone().requires_grad_(), start.clone().requires_grad_()
    mada = MADA([{"params": [ours], "muon": True}], lr=0.02, weight_decay=0.1, mu=1.0, learn=())
    torchs = torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(10):
        ours.grad = torch.randn(32, 24, generator=make)
        theirs.grad = ours.grad.clone()
        mada.step()
        torchs.step()
    moved = (theirs.detach() - start).square().mean().sqrt()
    assert (ours - theirs).detach().square().mean().sqrt() < BFLOAT16 * moved
    assert set(mada.state[ours]) == {"step", "u", "o"}  # Adam's moments are not kept where they do not count


def test_not_learned_and_at_zero_it_costs_nothing():
    params = problem.parameters()
    marked, plain_one = MADA(groups_of(params)), MADA([{"params": list(problem.parameters().values())}])
    problem.train(marked, params, [1])
    assert "o" not in marked.state[params["W"]] and "u" not in marked.state[params["W"]]
    assert "mu" not in marked.coefficients and "mu" not in plain_one.coefficients


def test_a_step_that_is_skipped_leaves_muons_state():
    params = problem.parameters()
    optimizer = MADA(groups_of(params), mu=0.5, learn=("mu",))
    problem.train(optimizer, params, [1, 2])
    before = copy.deepcopy([params, optimizer.state_dict()["state"], optimizer.coefficients])
    for p in params.values():
        p.grad = torch.full_like(p, float("nan"))
    optimizer.step()
    torch.testing.assert_close(
        [params, optimizer.state_dict()["state"], optimizer.coefficients], before, rtol=0, atol=0
    )


def test_saved_and_loaded_in_the_middle():
    params = problem.parameters()
    optimizer = MADA(groups_of(params), mu=0.5, learn=(*ALL, "mu"), hyper_lr=0.05)
    problem.train(optimizer, params, range(1, 6))
    others = copy.deepcopy(params)
    fresh = MADA(groups_of(others), mu=0.9, learn=(*ALL, "mu"), hyper_lr=0.05)
    fresh.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    problem.train(optimizer, params, range(6, 11))
    problem.train(fresh, others, range(6, 11))
    torch.testing.assert_close(params, others, rtol=0, atol=0)
    assert optimizer.coefficients == fresh.coefficients


def test_mu_without_a_marked_group_is_refused():
    with pytest.raises(ValueError, match="muon=True.*param_groups"):
        MADA(list(problem.parameters().values()), mu=1.0)


@pytest.mark.parametrize(
    "given",
    [
        lambda model: [{"params": model.parameters()}],
        lambda model: model.parameters(),
        lambda model: model.named_parameters(),
        lambda model: [{"params": p} for p in model.parameters()],
    ],
    ids=["generator in a group", "generator", "named", "one tensor per group"],
)
def test_build_finds_hidden_matrices_however_parameters_are_given(given):
    model = small_gpt()
    optimizer = optim.build("mada", given(model), hidden=hidden_matrices(model), mu=1.0)
    parts = {muon: {p for group in optimizer.param_groups if group["muon"] == muon for p in group["params"]}
             for muon in (True, False)}  # fmt: skip
    assert parts[True] == {*hidden_matrices(model)} and parts[True] | parts[False] == {*model.parameters()}
