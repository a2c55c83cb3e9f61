"""GPT-2, in one file: the model, its sizes, pretrained weights, and what a step of it costs.

References: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), and OpenAI's released code.
"""

import math
import re
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

# Dense bf16 peak of a device in FLOP/s (V100: fp16), from the vendors' data sheets; mfu is a share of it whatever the
# dtype is. The first key that is a word of its name counts.
PEAK_FLOPS = {
    "GH200": 989e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A40": 150e12,
    "A10G": 70e12,
    "V100": 125e12,
    "4090": 165e12,
}

REVISIONS = {  # the commits of openai-community/NAME that the names below stand for
    "gpt2": "607a30d783dfa663caf39e06633721c8d4cfcd7e",
    "gpt2-medium": "6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
    "gpt2-large": "32b71b12589c2f8d625668d2335a01cac3249519",
    "gpt2-xl": "15ea56dee5df4983c59b2538573817e1667135e2",
}

OURS = {  # {of a GPT2Config: the values that GPT computes with}
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "tie_word_embeddings": (True,),
}


@dataclass
class GPTConfig:
    """The sizes of a model.

    (n_layer, n_head, n_embd): 11M (6, 6, 384) with 65 characters; GPT-2's 124M (12, 12, 768), 355M (24, 16, 1024) and
    1.5B (48, 25, 1600).
    """

    block_size: int = 1024
    vocab_size: int = 50304  # GPT-2's 50257 rounded up to a multiple of 64, which matrix units like better
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True  # in linear layers and layer norms, as in GPT-2; without it is a bit better and faster

    def matrix_entries(self) -> int:
        """The number of parameters, excluding biases and layer norms: a lower bound."""
        return 12 * self.n_layer * self.n_embd**2 + (self.vocab_size + self.block_size) * self.n_embd


class LayerNorm(nn.LayerNorm):
    """Computed in the input's dtype, even if FSDP2 has gathered the weights in a smaller one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), bias, self.eps)


class CausalSelfAttention(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd, bias=config.bias)
        self.n_head, self.dropout = config.n_head, config.dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        heads = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head)
        q, k, v = heads.permute(2, 0, 3, 1, 4)  # 3 x (B, nh, T, hs)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, dropout_p=self.dropout if self.training else 0.0)
        y = self.c_proj(y.transpose(1, 2).reshape(B, T, C))
        return F.dropout(y, self.dropout, self.training)


class MLP(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd, bias=config.bias)
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd, bias=config.bias)
        self.dropout = config.dropout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.dropout(self.c_proj(F.gelu(self.c_fc(x), approximate="tanh")), self.dropout, self.training)


class Block(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.ln_1 = LayerNorm(config.n_embd, bias=config.bias)
        self.attn = CausalSelfAttention(config)
        self.ln_2 = LayerNorm(config.n_embd, bias=config.bias)
        self.mlp = MLP(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    """GPT-2 with its output layer tied to the token embedding. Module names are those of transformers' GPT-2."""

    def __init__(self, config: GPTConfig):
        super().__init__()
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
            if getattr(config, name) < 1:
                raise ValueError(f"{name}={getattr(config, name)} must be at least 1")
        if config.n_embd % config.n_head:
            raise ValueError(f"n_embd={config.n_embd} must be a multiple of n_head={config.n_head}")
        if not 0 <= config.dropout < 1:
            raise ValueError(f"dropout={config.dropout} must lie in [0, 1)")
        self.config, self.checkpoint_activations = config, False  # True: recomputed in the backward pass
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.n_embd),
                "wpe": nn.Embedding(config.block_size, config.n_embd),
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                "ln_f": LayerNorm(config.n_embd, bias=config.bias),
            }
        )
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.transformer.wte.weight
        for name, p in self.named_parameters():  # GPT-2's initialization; layer norms keep ones and zeros
            if name.endswith("c_proj.weight"):  # it ends in the residual stream, which adds 2 n_layer such terms
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * config.n_layer))
            elif p.dim() >= 2:
                nn.init.normal_(p, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, tokens: torch.Tensor, targets: torch.Tensor | None = None) -> torch.Tensor:
        """tokens (B, T) int64 -> logits (B, T, vocab_size), or with targets (B, T) the mean cross-entropy in nats.

        Raises ValueError if T is more than block_size.
        """
        T = tokens.size(1)
        if T > self.config.block_size:
            raise ValueError(f"{T} tokens do not fit the context of {self.config.block_size}")
        x = self.transformer.wte(tokens) + self.transformer.wpe(torch.arange(T, device=tokens.device))  # (B, T, C)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.transformer.h:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpoint_activations and self.training else block(x)
        logits = self.lm_head(self.transformer.ln_f(x))
        if targets is None:
            return logits
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())

    @torch.no_grad()
    def generate(
        self,
        tokens: torch.Tensor,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        vocab_size: int | None = None,
    ) -> torch.Tensor:
        """Continue tokens (B, T) by sampling, one token at a time: (B, T + max_new_tokens).

        temperature: 0 is greedy; top_k: only the k likeliest; vocab_size: only ids below it.
        """
        for _ in range(max_new_tokens):
            logits = self(tokens[:, -self.config.block_size :])[:, -1, :vocab_size]
            if top_k is not None:
                kth = logits.topk(min(top_k, logits.size(-1))).values[:, -1:]
                logits = logits.masked_fill(logits < kth, -torch.inf)
            if temperature == 0:
                new = logits.argmax(-1, keepdim=True)
            else:
                new = torch.multinomial(F.softmax(logits / temperature, dim=-1), 1)
            tokens = torch.cat([tokens, new], dim=1)
        return tokens

    @classmethod
    def from_pretrained(cls, name: str, dropout: float = 0.0) -> "GPT":
        """OpenAI's weights through transformers: gpt2 (124M), gpt2-medium, gpt2-large, gpt2-xl, or a local folder.

        Raises OSError if there are none under that name, and ValueError if they are another model's, for which
        transformers would put random ones.
        """
        from transformers import GPT2LMHeadModel

        revision = REVISIONS.get(name.removeprefix("openai-community/"), "main")
        theirs, info = GPT2LMHeadModel.from_pretrained(name, revision=revision, output_loading_info=True)
        if missing := sorted(info["missing_keys"]):
            raise ValueError(f"it is not a GPT-2: it has no {missing[0]}")
        return cls.from_transformers(theirs, dropout)

    @classmethod
    def from_transformers(cls, theirs: nn.Module, dropout: float = 0.0) -> "GPT":
        """A GPT with the weights of a transformers GPT2LMHeadModel: the same logits. Raises ValueError if it cannot."""
        c = theirs.config
        for name, ours in OURS.items():
            if getattr(c, name) not in ours:
                raise ValueError(f"it is another GPT-2: its {name} is {getattr(c, name)!r}, not {ours[0]!r}")
        model = cls(GPTConfig(c.n_positions, c.vocab_size, c.n_layer, c.n_head, c.n_embd, dropout, bias=True))
        copy_weights(theirs, model)
        return model

    def to_transformers(self) -> nn.Module:
        """A transformers GPT2LMHeadModel with these weights, and zeros for missing biases: the same logits."""
        from transformers import GPT2Config, GPT2LMHeadModel

        c = self.config
        end = 50256 if c.vocab_size > 50256 else None  # GPT-2's end of text
        theirs = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=c.vocab_size,
                n_positions=c.block_size,
                n_embd=c.n_embd,
                n_layer=c.n_layer,
                n_head=c.n_head,
                resid_pdrop=c.dropout,
                embd_pdrop=c.dropout,
                attn_pdrop=c.dropout,
                bos_token_id=end,
                eos_token_id=end,
            )
        )
        copy_weights(self, theirs)
        return theirs.eval()

    def num_params(self) -> int:
        """The number of parameters without position embeddings, which scaling laws and the FLOP estimate use."""
        return sum(p.numel() for p in self.parameters()) - self.transformer.wpe.weight.numel()

    def flops_per_token(self, context: int) -> int:
        """Training FLOPs per token in a context of `context` tokens: 6 per parameter, plus attention.

        Source: PaLM, Chowdhery et al. (2022), appendix B.
        """
        c = self.config
        return 6 * self.num_params() + 12 * c.n_layer * c.n_embd * context


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module) -> None:
    """Between a GPT and a transformers GPT2LMHeadModel, either way. Biases that only the target has become 0."""
    weights = dict(source.named_parameters())
    for name, p in target.named_parameters():
        if name not in weights:
            p.zero_()
        else:  # OpenAI's "Conv1D" layers hold the transposed matrix of a Linear
            p.copy_(weights[name].T if p.dim() == 2 and name.startswith("transformer.h.") else weights[name])


def peak_flops(device_name: str) -> float | None:
    """Peak of a device by its name, in FLOP/s; None if it is unknown."""
    return next((peak for key, peak in PEAK_FLOPS.items() if re.search(rf"\b{key}\b", device_name)), None)
