"""What scripts/reproduce.py runs: the rows of each table and figure, and what each scale makes of them. Data, no code.

A lineup is a set of rows under equal conditions; a scale stacks config files on every row. What a scale does to the
paper's proportions is computed from the configs (proportions.py), not written here. To add a table or figure, add a
line to NAMES; to add an optimizer, one to a lineup's rows.
"""

from types import MappingProxyType
from typing import NamedTuple

SCALES = ("smoke", "pilot", "cpu", "mini", "gpu", "paper")


class Scale(NamedTuple):
    note: str  # how it differs from the paper, where the configs do not say it
    files: tuple = ()  # config files on top of the row's
    seeds: int = 3
    grid: tuple = ()  # factors on the learning rate, the same for every row that is tuned, besides factor 1
    rows: tuple = ()  # those that the scale has; (): all of the lineup's
    tuned: tuple = ()  # the rows that its grid is run for; (): those of the lineup
    # {column of the perplexity tables: (data set, split)}, measured at factor 1
    evaluated: MappingProxyType | dict = MappingProxyType({})


BASELINE = "Adam"  # the row that the others are compared with


class Lineup(NamedTuple):
    script: str
    rows: dict  # {label: config file and --settings}; ("final of", label, file): fixed where that row's run ended
    scales: dict
    value: str  # key in metrics.jsonl; its last one is the result
    better: str = "lower"
    tuned: tuple = ()  # the rows that a scale's grid is run for; (): all of them


class Name(NamedTuple):
    kind: str  # how it is shown: a key of laboratory.KINDS
    lineups: tuple = ()
    rest: tuple | dict = ()  # what else that kind takes
    claim: str = ""  # the paper's, in a few words


GPT2, MEDIUM, XL = "config/train_gpt2_{}.py", "config/train_gpt2_medium_{}.py", "config/finetune_gpt2_xl_{}.py"
POOR = ("--beta1=0.7", "--beta2=0.8")
DEFAULT = (GPT2.format("adam"), "--optimizer=mada")  # Adam replaced, and nothing else changed
AUTHORS = ("--rule=authors", "--hyper_scale=None", "--debias=None", "--domain=None")  # it has forms of its own

BYTES = (
    "OpenWebText is read as bytes, perplexities are per byte, LAMBADA is OpenAI's and WikiText its running text, "
    "so that order and gap are under test, not values."
)
FIRST = (
    "These are the first tenth of the steps of a larger miniature, before its rate has fallen: a pilot, not a result."
)
PLATEAU = "600 steps end near the loss of counted bigrams; the scale mini keeps more of the paper's proportions."
SMOKE = "It shows that everything runs, and nothing else."
CLIPPING = "Clipping the gradient's norm at 1, which appendix C.2 does not mention, is ours"
CONVEX = (
    "The settings are ours, and were found by hand; of them the paper names one: a small hyper-learning-rate for gamma."
)
VISION = (
    "The settings are those of appendix C.2; "
    "those that the paper does not name (betas, normalization, augmentation, decay) are ours. "
    "The authors' ResNet-9 notebook has amsgrad, weight decay 1e-4, clipping by value at 0.12, rotations and "
    "cycled momentum; ours has none of them."
)
THEIRS = {
    "openwebtext": ("openwebtext", "val"),
    "wikitext": ("wikitext_lines", "test"),  # the variants that the authors took
    "lambada": ("lambada_original", "test"),
}
AS_BYTES = {
    "openwebtext": ("openwebtext_bytes", "val"),
    "wikitext": ("wikitext_bytes", "test"),
    "lambada": ("lambada_bytes", "test"),
}
BRACKETED = ("Adam", "MADA", "MADA (default)", "MADA (rule=authors)")
MAIN = ("Adam", "MADA", "MADA (default)", "HyperAdam", "MADA (rule=authors)", "MADA (rho_0 = 0)", "Lion", "AVGrad")
CPU = "config/scale_gpt2_cpu.py"
MINI, PILOT = (CPU, "config/scale_gpt2_mini.py"), (CPU, "config/scale_gpt2_pilot.py")
GPT2_SCALES = {
    "smoke": Scale(SMOKE, ("config/scale_gpt2_smoke.py",), 2, (4,)),
    "pilot": Scale(f"{BYTES} {FIRST}", PILOT, 3, (0.5, 2, 4), rows=MAIN, tuned=MAIN),
    "cpu": Scale(f"{BYTES} {PLATEAU}", (CPU,), 3, (4, 16), evaluated=AS_BYTES),
    "mini": Scale(BYTES, MINI, 3, (0.5, 2, 4), tuned=BRACKETED, evaluated=AS_BYTES),
    "gpu": Scale("", ("config/scale_gpt2_gpu.py",), 3, (2, 4), evaluated=THEIRS),
    "paper": Scale(f"{CLIPPING}; products are in bfloat16, the authors' in float32.", (), 1, evaluated=THEIRS),
}
MEDIUM_SCALES = {scale: it for scale, it in GPT2_SCALES.items() if scale != "pilot"} | {
    "paper": Scale(f"{CLIPPING}; so is the rate of 6e-4 (the authors' file: 5e-4).", (), 1, evaluated=THEIRS)
}

LINEUPS = {
    "gpt2": Lineup(
        "train.py",
        {
            "Adam": (GPT2.format("adam"),),
            "Adan": (GPT2.format("adan"),),
            "HyperAdam": (GPT2.format("hyperadam"),),
            "Lion": (GPT2.format("lion"),),
            "AVGrad": (GPT2.format("avgrad"),),
            "MADA": (GPT2.format("mada"),),
            "MADA (default)": DEFAULT,
            "MADA (rule=authors)": (GPT2.format("mada"), *AUTHORS),
            "MADA (hyper-rates / 5)": (GPT2.format("mada"), "config/hyper_rates_fifth.py"),
            "MADA (hyper-rates x 5)": (GPT2.format("mada"), "config/hyper_rates_fivefold.py"),
            "MADA (AMSGrad)": (GPT2.format("mada"), "--second_moment=amsgrad"),
            "MADA (rho_0 = 0)": (GPT2.format("mada"), "--beta3=0.0"),
            "MADA (rho_0 = 0) (rule=authors)": (GPT2.format("mada"), "--beta3=0.0", *AUTHORS),
            "MADA-FS": ("final of", "MADA", GPT2.format("mada_fs")),
            "MADA-FS (rho_0 = 0)": ("final of", "MADA (rho_0 = 0)", GPT2.format("mada_fs")),
            "MADA-": (GPT2.format("mada"), "--beta3=0.0", *POOR),
            "MADA- (rule=authors)": (GPT2.format("mada"), "--beta3=0.0", *POOR, *AUTHORS),
            "Adam-": (GPT2.format("adam"), *POOR),
        },
        GPT2_SCALES,
        "val_loss",
        tuned=("Adam", "Adan", "HyperAdam", "Lion", "AVGrad", "MADA", "MADA-FS"),
    ),
    "gpt2-medium": Lineup(
        "train.py",
        {
            "Adam": (MEDIUM.format("adam"),),
            "MADA": (MEDIUM.format("mada"),),
            "MADA (default)": (MEDIUM.format("adam"), "--optimizer=mada"),
            "MADA (rule=authors)": (MEDIUM.format("mada"), *AUTHORS),
        },
        MEDIUM_SCALES,
        "val_loss",
    ),
    "gpt2-xl": Lineup(
        "train.py",
        {
            "MADA": (XL.format("mada"),),
            "Adam": (XL.format("adam"),),
            "HyperAdam": (XL.format("hyperadam"),),
            "MADA (rule=authors)": (XL.format("mada"), *AUTHORS),
        },
        {
            "smoke": Scale(
                f"A toy model from random weights. {SMOKE}",
                ("config/scale_gpt2_smoke.py", "config/scale_finetune_smoke.py"),
                2,
            ),
            "paper": Scale("Batch, learning rate, schedule and clipping are ours: the paper gives none.", (), 3),
        },
        "train_loss",
    ),
    "cnn": Lineup(
        "scripts/train_cifar10.py",
        {
            "MADA": ("config/cifar10_cnn_mada.py",),
            "Adam": ("config/cifar10_cnn_adam.py",),
            "HyperAdam": ("config/cifar10_cnn_hyperadam.py",),
            "Momentum SGD": ("config/cifar10_cnn_sgd.py",),
            "MADA (rule=authors)": ("config/cifar10_cnn_mada.py", *AUTHORS),
            "Adam (beta2 = 0.99)": ("config/cifar10_cnn_adam.py", "--beta2=0.99"),
            "Adam (augmented)": ("config/cifar10_cnn_adam.py", "--augment=True"),
        },
        {
            "smoke": Scale(SMOKE, ("config/scale_cifar10_smoke.py",), 2),
            "cpu": Scale(VISION, (), 3, (0.3, 3)),
            "gpu": Scale(VISION, (), 5, (0.3, 3)),
            "paper": Scale(VISION, (), 3),
        },
        "accuracy",
        "higher",
        tuned=("MADA", "Adam", "HyperAdam", "Momentum SGD"),
    ),
    "resnet9": Lineup(
        "scripts/train_cifar10.py",
        {
            "MADA": ("config/cifar10_resnet9_mada.py",),
            "Adam": ("config/cifar10_resnet9_adam.py",),
            "HyperAdam": ("config/cifar10_resnet9_hyperadam.py",),
            "Momentum SGD": ("config/cifar10_resnet9_sgd.py",),
            "MADA (rule=authors)": ("config/cifar10_resnet9_mada.py", *AUTHORS),
        },
        {
            "smoke": Scale(SMOKE, ("config/scale_cifar10_smoke.py", "config/scale_resnet9_smoke.py"), 1),
            "gpu": Scale(VISION, (), 3, (0.3,)),
            "paper": Scale(VISION, (), 3),
        },
        "accuracy",
        "higher",
    ),
    "convex": Lineup(
        "scripts/convex.py",
        {"all": ("config/convex.py",)},
        {
            "smoke": Scale(SMOKE, ("config/scale_convex_smoke.py",), 1),
            **dict.fromkeys(("cpu", "gpu", "paper"), Scale(CONVEX, (), 1)),
        },
        "regret",
    ),
}

ROWS = ("Adam", "Adan", "HyperAdam", "Lion", "AVGrad", "MADA", "MADA (default)", "MADA (rule=authors)")
TABLE2 = (*ROWS, "MADA (hyper-rates / 5)", "MADA (hyper-rates x 5)", "MADA (AMSGrad)", "MADA-FS")
TABLE2 += ("MADA-", "MADA- (rule=authors)", "Adam-")
CURVES = (*ROWS, "MADA (rho_0 = 0)", "MADA-FS")
TABLE6 = ("Adam", "MADA (rho_0 = 0)", "MADA (rho_0 = 0) (rule=authors)", "MADA-FS (rho_0 = 0)", "MADA (default)")
GRID = {  # scale: (sweep file, seeds)
    "smoke": ("config/sweep_shakespeare_betas_smoke.py", 2),
    "cpu": ("config/sweep_shakespeare_betas_cpu.py", 3),
    "gpu": ("config/sweep_shakespeare_betas.py", 1),
    "paper": ("config/sweep_shakespeare_betas.py", 1),
}
NAMES = {
    "table2": Name("losses", ("gpt2",), TABLE2, "MADA is below Adam in validation loss on GPT-2 (125M)"),
    "table3": Name("perplexities", ("gpt2",), TABLE2, "MADA is below Adam in perplexity on three data sets"),
    "table4": Name("losses", ("gpt2-xl",), (), "MADA fine-tunes GPT-2 XL to a lower training loss than Adam"),
    "table5": Name("losses", ("cnn", "resnet9"), (), "MADA is more accurate than Adam on CIFAR-10"),
    "table6": Name("perplexities", ("gpt2",), TABLE6, "MADA from AVGrad (rho_0 = 0) is below Adam"),
    "table7": Name("perplexities", ("gpt2-medium",), (), "MADA is below Adam on GPT-2 (355M) too"),
    "fig1": Name("bound", (), (10_000,), "T = 10,000: the bound is least at rho = beta2, and AVGrad's is below Adam's"),
    "fig2": Name("bound", (), (1_000,), "T = 1,000: the bound is least at rho = beta2, and Adam's is below AVGrad's"),
    "prop1": Name("proposition", (), (), "rho_t <= 1 / (t (1 - beta2) + 1) suffices for step sizes that never grow"),
    "fig3": Name("curves", ("gpt2",), ("val_loss", *CURVES), "MADA reaches a lower validation loss than the baselines"),
    "fig4": Name("curves", ("gpt2",), ("train_loss", *CURVES), "MADA reaches a lower training loss than the baselines"),
    "fig5": Name(
        "coefficients",
        ("gpt2",),
        ("MADA (rho_0 = 0)", "mada_rho0_beta3_0"),
        "from (0.9, 0.95), beta3 = 0: beta1 rises, then falls; rho in three phases",
    ),
    "fig6": Name(
        "coefficients",
        ("gpt2",),
        ("MADA-", "mada_poor_init"),
        "from (0.7, 0.8) the coefficients move more than in Figure 5",
    ),
    "fig7": Name(
        "coefficients",
        ("gpt2",),
        ("MADA", "mada_rho0_beta3_0.9"),
        "from (0.9, 0.95), beta3 = 0.9: beta1 reaches 0.99 and stays",
    ),
    "fig8": Name("grid", (), GRID, "MADA ends below Adam and HyperAdam in training loss for most initial betas"),
    "fig9": Name(
        "convex", ("convex",), (), "Adam stays away from x = -1; AVGrad and MADA from rho = 1 reach it, with rho to 0"
    ),
    "profile": Name(
        "profile",
        (),
        {
            "Adam": (GPT2.format("adam"),),
            "MADA": (GPT2.format("mada"),),
            "MADA without Lion": (GPT2.format("mada"), "--learn=('beta1', 'beta2', 'beta3', 'rho', 'c')"),
        },
        "MADA costs more time and memory than Adam, less without Lion, and relatively less at larger batches",
    ),
}

PROFILE = {  # scale: (config files, {small and large batch: settings}, processes)
    "smoke": (("config/scale_gpt2_smoke.py",), {"": (), "8 times the batch": ("--batch_size=64",)}, 1),
    "cpu": (("config/scale_profile_cpu.py",), {"": (), "4 times the batch": ("--batch_size=4",)}, 1),
    "gpu": (("config/scale_profile_gpu.py",), {"": (), "batch of 3,840 sequences": ("--batch_size=480",)}, 1),
    "paper": (
        ("config/scale_profile_gpu.py",),
        {"": ("--batch_size=480",), "batch of 3,840 sequences": ("--batch_size=3840",)},
        8,
    ),
}
