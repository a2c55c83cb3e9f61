"""Small problems other than language, with any optimizer of optim/: seconds each, for the contest. In train.py's style.

    python scripts/train_small.py --task=digits                              # an MLP on scikit-learn's digits
    python scripts/train_small.py --task=factorization --optimizer=adam      # matrix completion, which is not convex
    python scripts/train_small.py --task=cartpole                            # REINFORCE; acrobot likewise

`--help` lists the settings. metrics.jsonl has a line every 50 steps; by the last one's `value` optimizers are
compared, lower is better: the validation loss (digits), the mean squared error of held-out entries (factorization), or
minus the mean return of all episodes so far (cartpole, acrobot).
"""

import math
import sys
from collections.abc import Collection
from contextlib import closing
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import checkpoints
import metrics
import optim
import settings
from devices import here
from reproduce import variants
from settings import Count, Diverged, Fraction, Fractions, Names, Natural, Nonnegative, Rates, UserError

# -- folder [once, free]
out_dir = "out/small"  # folder of metrics.jsonl
# -- task
init_from: Literal["scratch"] = "scratch"  # a run takes seconds: one that is stopped starts over
seed: Natural = 1337  # of the initial weights, the data and the batches
task: Literal["digits", "factorization", "cartpole", "acrobot"] = "digits"  # TASKS below
# -- optimizer
# of MADA, for the ablation, or another package's: see reproduce/variants.py
variant: Literal["linear", "factor", "cosine", "prodigy", "schedulefree"] | None = None
optimizer = "mada"  # a name in optim/build.py
learning_rate: Nonnegative = 1e-2  # peak
schedule: Literal["cosine", "linear", "constant"] = "cosine"  # after the warm-up, down to a tenth of the peak
warmup: Fraction = 0.05  # of the steps: linear from 0
steps: Count | None = None  # None: the task's
weight_decay: Nonnegative = 0.0  # decoupled, on matrices
grad_clip: Nonnegative = 1.0  # global norm to clip the gradient to; 0 for no clipping
# -- hyperparameters: the optimizer's own, by its names for them; None keeps its default
beta1: float | None = None  # betas, in the optimizer's own convention (docs/optimizers.md); initial ones where learned
beta2: float | None = None  # decay of the second moment for Adam and MADA
beta3: float | None = None  # Adan's part in MADA; decay of the second moment for Adan
rho: float | None = None  # MADA: AVGrad 0 ... 1 Adam
c: float | None = None  # MADA: Yogi 0 ... 1 Adam
gamma: float | None = None  # MADA: Lion 0 ... 1 the adaptive family
mu: float | None = None  # MADA: Adam and the rest 0 ... 1 Muon, for hidden matrices
eps: Nonnegative | None = None  # added to the root of the second moment; the paper has 1e-6 on OpenWebText
learn: Names | None = None  # names of the coefficients to learn; () for none
hyper_lr: Nonnegative | Rates | None = None  # learning rate of the coefficients: a number, or {name: number}
hyper_momentum: Fraction | Fractions | None = None  # momentum of the coefficients, likewise
debias: str | None = None  # what moving averages are divided by: "weights" that they gathered, or "powers", 1 - beta^t
hyper_scale: str | None = None  # of the hyper-gradients: "relative", or "raw" as in the paper
grow_lr: bool | None = None  # MADA, HyperAdam: learn a factor on the learning rate that only grows
domain: dict | None = None  # {name: (low, high)}: bounds on learned coefficients in place of the optimizer's own
rule: str | None = None  # MADA: "paper", or "authors" for what the released code computes
# -- end of settings

SETTINGS = settings.declared(__file__)
LOG_INTERVAL = 50


def mlp(*widths, activation=nn.ReLU):
    """Linear layers of these widths with an activation between them."""
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), activation())]
    return nn.Sequential(*layers[:-1])


class Digits:
    """1,797 images of 8 x 8: 1,297 to train an MLP of 10k parameters on in batches of 64, 500 to validate."""

    steps = 400

    def __init__(self, seed):
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        order = np.random.default_rng(0).permutation(len(labels))  # the split is the same for all seeds
        pixels, labels = torch.tensor(pixels[order] / 16, dtype=torch.float32), torch.tensor(labels[order])
        self.train, self.val, self.seed = (pixels[:-500], labels[:-500]), (pixels[-500:], labels[-500:]), seed
        self.model = mlp(64, 96, 48, 10)

    def loss(self, it):
        rows = np.random.default_rng((self.seed, it)).integers(0, len(self.train[1]), 64)
        return F.cross_entropy(self.model(self.train[0][rows]), self.train[1][rows])

    @torch.no_grad()
    def value(self):
        return F.cross_entropy(self.model(self.val[0]), self.val[1]).item()


class Factorization:
    """U V^T against 40 % of the entries of a noisy 100 x 80 matrix of rank 5, in batches of 256; the others test it."""

    steps = 600

    def __init__(self, seed):
        rng = np.random.default_rng((seed, 1))
        whole = rng.normal(size=(100, 5)) @ rng.normal(size=(5, 80)) + 0.1 * rng.normal(size=(100, 80))
        self.matrix, self.seed = torch.tensor(whole, dtype=torch.float32).flatten(), seed
        order = torch.from_numpy(rng.permutation(whole.size))
        self.known, self.hidden = order[: int(0.4 * whole.size)], order[int(0.4 * whole.size) :]
        self.model = nn.ParameterList(0.3 * torch.randn(n, 5) for n in (100, 80))

    def error(self, entries):
        u, v = self.model
        return ((u[entries // 80] * v[entries % 80]).sum(1) - self.matrix[entries]).square().mean()

    def loss(self, it):
        return self.error(self.known[np.random.default_rng((self.seed, it)).integers(0, len(self.known), 256)])

    @torch.no_grad()
    def value(self):
        return self.error(self.hidden).item()


class PolicyGradient:
    """REINFORCE on a batch of 16 episodes a step, with returns-to-go standardized over the batch (Williams, 1992)."""

    episodes, gamma = 16, 0.99

    def __init__(self, seed):
        self.seed, self.returns = seed, []
        self.make()
        with torch.no_grad():
            self.model[-1].weight.mul_(0.1)  # all actions are about equally likely at first, as is usual
            self.model[-1].bias.zero_()

    def loss(self, it):
        seen, actions, rewards, alive = self.roll_out(int(np.random.SeedSequence((self.seed, it)).generate_state(1)[0]))
        self.returns.append((rewards * alive).sum(0).mean().item())
        to_go = torch.zeros_like(rewards)
        total = torch.zeros(self.episodes)
        for t in range(len(rewards) - 1, -1, -1):
            total = rewards[t] * alive[t] + self.gamma * total
            to_go[t] = total
        good = to_go[alive]
        advantage = (to_go - good.mean()) / (good.std() + 1e-6)
        log_p = F.log_softmax(self.model(seen), -1).gather(-1, actions[..., None])[..., 0]
        return -(log_p * advantage)[alive].mean()

    @torch.no_grad()
    def roll_out(self, seed):
        """Observations (T, episodes, size), actions, rewards, and which episodes were alive: (T, episodes) each."""
        rng, observation = np.random.default_rng(seed), self.reset(seed)
        alive, rows = np.ones(self.episodes, bool), []
        while alive.any() and len(rows) < self.limit:
            seen = torch.from_numpy(observation)
            p = self.model(seen).softmax(-1).double().cumsum(-1).numpy()
            action = (rng.random((self.episodes, 1)) * p[:, -1:] > p).sum(1).clip(max=p.shape[1] - 1)
            observation, reward, ended = self.act(action)
            rows.append((seen, torch.from_numpy(action), torch.from_numpy(reward), torch.from_numpy(alive.copy())))
            alive &= ~ended
        return [torch.stack(column) for column in zip(*rows, strict=True)]

    def value(self):
        return -sum(self.returns) / len(self.returns)


class CartPole(PolicyGradient):
    """gymnasium's CartPole-v1, at most 200 steps an episode."""

    steps, limit = 80, 200

    def make(self):
        from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv

        self.env, self.model = CartPoleVectorEnv(self.episodes), mlp(4, 32, 2, activation=nn.Tanh)

    def reset(self, seed):
        return self.env.reset(seed=seed)[0]

    def act(self, action):
        observation, reward, ended, _, _ = self.env.step(action)
        return observation, reward.astype(np.float32), ended


class Acrobot(PolicyGradient):
    """gymnasium's Acrobot-v1, 500 steps an episode at most: its own dynamics, of all episodes at once.

    An action is held for 4 steps; otherwise a new policy hardly ever reaches the goal, and has nothing to learn from.
    """

    steps, limit, hold = 80, 125, 4

    def make(self):
        from gymnasium.envs.classic_control.acrobot import AcrobotEnv

        self.env, self.model = AcrobotEnv(), mlp(6, 32, 3, activation=nn.Tanh)

    def reset(self, seed):
        self.state = np.random.default_rng(seed).uniform(-0.1, 0.1, (4, self.episodes))
        return self.observe()

    def observe(self):
        a, b, *velocity = self.state
        return np.stack([np.cos(a), np.sin(a), np.cos(b), np.sin(b), *velocity], 1).astype(np.float32)

    def act(self, action):
        ended, reward = np.zeros(self.episodes, bool), np.zeros(self.episodes, np.float32)
        for _ in range(self.hold):
            ended |= self.move(np.asarray(self.env.AVAIL_TORQUE)[action])
            reward -= ~ended
        return self.observe(), reward, ended

    def move(self, torque):
        """One step of gymnasium's. Returns which episodes are at the goal."""

        def slope(state):
            return np.stack(self.env._dsdt(np.concatenate([state, torque[None]]))[:4])

        h = self.env.dt
        k1 = slope(self.state)  # Runge-Kutta
        k2 = slope(self.state + h / 2 * k1)
        k3 = slope(self.state + h / 2 * k2)
        k4 = slope(self.state + h * k3)
        a, b, *velocity = self.state + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        a, b = ((x + np.pi) % (2 * np.pi) - np.pi for x in (a, b))
        limits = self.env.MAX_VEL_1, self.env.MAX_VEL_2
        self.state = np.stack([a, b, *(np.clip(v, -most, most) for v, most in zip(velocity, limits, strict=True))])
        return -np.cos(a) - np.cos(a + b) > 1.0


TASKS = {"digits": Digits, "factorization": Factorization, "cartpole": CartPole, "acrobot": Acrobot}


def learning_rate_at(it: int, total: int, cfg: SimpleNamespace) -> float:
    """The learning rate of step it = 1 ... total."""
    warm = round(cfg.warmup * total)
    if it <= warm:
        return cfg.learning_rate * it / warm
    part = (it - warm) / max(1, total - warm)
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * part)), "linear": 1 - part, "constant": 1.0}[cfg.schedule]
    return cfg.learning_rate * (0.1 + 0.9 * shape)


def value(task, optimizer):
    """The task's value; a schedule-free optimizer has other weights for that."""
    if not hasattr(optimizer, "eval"):
        return task.value()
    optimizer.eval()
    found = task.value()
    optimizer.train()
    return found


def train(cfg: dict, given: Collection[str] = ()) -> float:
    """One training run; cfg: all settings, a dict. Returns the task's value. Raises UserError or Diverged."""
    with checkpoints.hold(cfg["out_dir"]):
        if holds_another_script(cfg["out_dir"]):
            raise UserError(f"out_dir={cfg['out_dir']!r} holds a run of another script: name another --out_dir")
        return run(cfg)


def holds_another_script(out_dir: str) -> bool:
    """Whether a folder holds the record of another script's run."""
    try:
        return "task" not in metrics.read(out_dir)[0].get("config", {})
    except (OSError, UserError):
        return False


def run(cfg):
    """`train`, in a folder that is ours; what it holds of an earlier run of this script is lost."""
    resolved, cfg = cfg, SimpleNamespace(**cfg)
    torch.manual_seed(cfg.seed)
    task = TASKS[cfg.task](cfg.seed)
    total = cfg.steps or task.steps
    build = partial(variants.build, cfg.variant) if cfg.variant else optim.build
    try:
        optimizer = build(
            cfg.optimizer,
            optim.decay_matrices(task.model.parameters(), cfg.weight_decay),
            lr=cfg.learning_rate,
            hidden=optim.hidden_matrices(task.model),
            max_grad_norm=cfg.grad_clip,
            **settings.section(SETTINGS, "hyperparameters", resolved),
        )
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from None
    log = metrics.Metrics(
        cfg.out_dir,
        {
            "config": resolved,
            "seed": cfg.seed,
            **here("cpu"),
            "parameters": sum(p.numel() for p in task.model.parameters()),
        },
        0,
        total,
    )
    with closing(log):
        for it in range(1, total + 1):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(it, total, cfg)
            loss = task.loss(it)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            if it % LOG_INTERVAL == 0 or it == total:
                record = {"iter": it, "train_loss": loss.item(), "value": value(task, optimizer)}
                log.write(record | {"coefficients": getattr(optimizer, "coefficients", {})})
                if not math.isfinite(record["train_loss"]) or not math.isfinite(record["value"]):
                    raise Diverged(f"the loss is not finite at step {it}; a lower learning_rate may help")
    return record["value"]


if __name__ == "__main__":
    settings.main(train, __file__)
