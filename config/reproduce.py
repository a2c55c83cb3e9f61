"""What scripts/reproduce.py runs: the rows of each table and figure, and what each scale makes of them. Data, no code.

A contest is a set of rows under equal conditions; a scale stacks config files on every row and says how it differs.
Adding a table or figure is adding a line to NAMES; adding an optimizer, one to a contest's rows.
"""

from typing import NamedTuple

SCALES = ("smoke", "cpu", "gpu", "paper")


class Scale(NamedTuple):
    note: str  # what is reduced; "" for the paper's own setting
    files: tuple = ()  # config files on top of the row's
    seeds: int = 3
    grid: tuple = ()  # factors on the learning rate, the same for every row that is tuned, beside factor 1
    evaluated: dict = {}  # {column of the perplexity tables: (data set, split)}, taken at factor 1


class Contest(NamedTuple):
    script: str
    rows: dict  # {label: config file and --settings}; ("final of", label, file): fixed where that row's run ended
    scales: dict
    value: str  # key in metrics.jsonl; its last one is the result
    better: str = "lower"
    baseline: str = "Adam"
    tuned: tuple = ()  # the rows that a scale's grid is run for; (): all of them


GPT2, MEDIUM, XL = "config/train_gpt2_{}.py", "config/train_gpt2_medium_{}.py", "config/finetune_gpt2_xl_{}.py"
POOR = ("--beta1=0.7", "--beta2=0.8")
AUTHORS = ("--rule=authors", "--hyper_scale=None", "--debias=None", "--domain=None")  # it has forms of its own

BYTES = (
    "reduced (cpu): a GPT of 0.35M parameters (medium: 0.7M) on OpenWebText as bytes, 600 steps of 2,048 bytes instead of "
    "100,000 of 491,520 tokens; perplexities are per byte, of OpenAI's LAMBADA and WikiText's running text. Under test are "
    "order and gap, not values."
)
SMOKE = "smoke: ten steps of a toy model on Shakespeare; shows that everything runs, and nothing else."
VISION = (
    "Full scale: the settings of appendix C.2; those that the paper does not name (betas, normalisation, augmentation, "
    "decay) are ours."
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
GPT2_SCALES = {
    "smoke": Scale(SMOKE, ("config/scale_gpt2_smoke.py",), 2, (4,)),
    "cpu": Scale(BYTES, ("config/scale_gpt2_cpu.py",), 3, (4, 16), AS_BYTES),
    "gpu": Scale(
        "reduced (gpu): half the layers, context 256, 49M tokens instead of 49B.",
        ("config/scale_gpt2_gpu.py",),
        3,
        (2, 4),
        THEIRS,
    ),
    "paper": Scale("", (), 1, evaluated=THEIRS),
}

CONTESTS = {
    "gpt2": Contest(
        "train.py",
        {
            "Adam": (GPT2.format("adam"),),
            "Adan": (GPT2.format("adan"),),
            "HyperAdam": (GPT2.format("hyperadam"),),
            "Lion": (GPT2.format("lion"),),
            "AVGrad": (GPT2.format("avgrad"),),
            "MADA": (GPT2.format("mada"),),
            "MADA (rule=authors)": (GPT2.format("mada"), *AUTHORS),
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
    "gpt2-medium": Contest(
        "train.py",
        {
            "Adam": (MEDIUM.format("adam"),),
            "MADA": (MEDIUM.format("mada"),),
            "MADA (rule=authors)": (MEDIUM.format("mada"), *AUTHORS),
        },
        GPT2_SCALES,
        "val_loss",
    ),
    "gpt2-xl": Contest(
        "train.py",
        {
            "MADA": (XL.format("mada"),),
            "Adam": (XL.format("adam"),),
            "HyperAdam": (XL.format("hyperadam"),),
            "MADA (rule=authors)": (XL.format("mada"), *AUTHORS),
        },
        {
            "smoke": Scale(
                "smoke: a toy model from random weights on Shakespeare's characters, ten steps; shows that it runs.",
                ("config/scale_gpt2_smoke.py", "config/scale_finetune_smoke.py"),
                2,
            ),
            "paper": Scale("", (), 3),
        },
        "train_loss",
    ),
    "cnn": Contest(
        "scripts/train_cifar10.py",
        {
            "MADA": ("config/cifar10_cnn_mada.py",),
            "Adam": ("config/cifar10_cnn_adam.py",),
            "HyperAdam": ("config/cifar10_cnn_hyperadam.py",),
            "Momentum SGD": ("config/cifar10_cnn_sgd.py",),
            "MADA (rule=authors)": ("config/cifar10_cnn_mada.py", *AUTHORS),
            "Adam (beta2 = 0.99)": ("config/cifar10_cnn_adam.py", "--beta2=0.99"),
        },
        {
            "smoke": Scale("smoke: 512 images, one epoch.", ("config/scale_cifar10_smoke.py",), 2),
            "cpu": Scale(VISION, (), 3, (0.3, 3)),
            "gpu": Scale(VISION, (), 5, (0.3, 3)),
            "paper": Scale(VISION, (), 3),
        },
        "accuracy",
        "higher",
        tuned=("MADA", "Adam", "HyperAdam", "Momentum SGD"),
    ),
    "resnet9": Contest(
        "scripts/train_cifar10.py",
        {
            "MADA": ("config/cifar10_resnet9_mada.py",),
            "Adam": ("config/cifar10_resnet9_adam.py",),
            "HyperAdam": ("config/cifar10_resnet9_hyperadam.py",),
            "Momentum SGD": ("config/cifar10_resnet9_sgd.py",),
            "MADA (rule=authors)": ("config/cifar10_resnet9_mada.py", *AUTHORS),
        },
        {
            "smoke": Scale(
                "smoke: 32 images, one epoch.", ("config/scale_cifar10_smoke.py", "config/scale_resnet9_smoke.py"), 1
            ),
            "gpu": Scale(VISION, (), 3, (0.3,)),
            "paper": Scale(VISION, (), 3),
        },
        "accuracy",
        "higher",
    ),
    "convex": Contest(
        "scripts/convex.py",
        {"all": ("config/convex.py",)},
        {
            "smoke": Scale("smoke: T = 5,000 instead of 2,000,000.", ("config/scale_convex_smoke.py",), 1),
            **dict.fromkeys(("cpu", "gpu", "paper"), Scale("Full scale: T = 2,000,000; the settings are ours.", (), 1)),
        },
        "regret",
    ),
}

# name: (how it is shown: a function of scripts/show.py, its contests, the rest of that function's arguments)
NAMES = {
    "table2": (
        "losses",
        ("gpt2",),
        (
            "Adam",
            "Adan",
            "HyperAdam",
            "Lion",
            "AVGrad",
            "MADA",
            "MADA (rule=authors)",
            "MADA-FS",
            "MADA-",
            "MADA- (rule=authors)",
            "Adam-",
        ),
    ),
    "table3": (
        "perplexities",
        ("gpt2",),
        (
            "Adam",
            "Adan",
            "HyperAdam",
            "Lion",
            "AVGrad",
            "MADA",
            "MADA (rule=authors)",
            "MADA-FS",
            "MADA-",
            "MADA- (rule=authors)",
            "Adam-",
        ),
    ),
    "table4": ("losses", ("gpt2-xl",), ()),
    "table5": ("losses", ("cnn", "resnet9"), ()),
    "table6": (
        "perplexities",
        ("gpt2",),
        ("Adam", "MADA (rho_0 = 0)", "MADA (rho_0 = 0) (rule=authors)", "MADA-FS (rho_0 = 0)"),
    ),
    "table7": ("perplexities", ("gpt2-medium",), ("Adam", "MADA", "MADA (rule=authors)")),
    "fig1": ("bound", (), (10_000,)),
    "fig2": ("bound", (), (1_000,)),
    "fig3": ("curves", ("gpt2",), ("val_loss", "Adam", "Adan", "HyperAdam", "Lion", "AVGrad", "MADA", "MADA-FS")),
    "fig4": ("curves", ("gpt2",), ("train_loss", "Adam", "Adan", "HyperAdam", "Lion", "AVGrad", "MADA", "MADA-FS")),
    "fig5": ("coefficients", ("gpt2",), ("MADA (rho_0 = 0)", "mada_rho0_beta3_0")),
    "fig6": ("coefficients", ("gpt2",), ("MADA-", "mada_poor_init")),
    "fig7": ("coefficients", ("gpt2",), ("MADA", "mada_rho0_beta3_0.9")),
    "fig8": (
        "grid",
        (),
        {  # scale: (note, sweep file, seeds)
            "smoke": ("smoke: 2 x 2 cells, five steps of a toy model.", "config/sweep_shakespeare_betas_smoke.py", 2),
            "cpu": (
                "Reduced (cpu): 0.1M parameters, 5 x 5 cells, 700 steps.",
                "config/sweep_shakespeare_betas_cpu.py",
                3,
            ),
            "gpu": ("", "config/sweep_shakespeare_betas.py", 1),
            "paper": ("", "config/sweep_shakespeare_betas.py", 1),
        },
    ),
    "fig9": ("convex", ("convex",), ()),
    "profile": (
        "profile",
        (),
        {
            "Adam": (GPT2.format("adam"),),
            "MADA": (GPT2.format("mada"),),
            "MADA without Lion": (GPT2.format("mada"), "--learn=('beta1', 'beta2', 'beta3', 'rho', 'c')"),
        },
    ),
}

PROFILE = {  # scale: (note, config files, {small and large batch: settings}, processes)
    "smoke": (
        "smoke: a toy model.",
        ("config/scale_gpt2_smoke.py",),
        {"": (), "8 times the batch": ("--batch_size=64",)},
        1,
    ),
    "cpu": (
        "reduced (cpu): GPT-2 124M, one CPU, 1 sequence of 64 tokens; memory is the process's, Python and torch included.",
        ("config/scale_profile_cpu.py",),
        {"": (), "4 times the batch": ("--batch_size=4",)},
        1,
    ),
    "gpu": (
        "reduced (gpu): GPT-2 124M on one GPU, an eighth of the sequences: 60 and 480.",
        ("config/scale_profile_gpu.py",),
        {"": (), "batch of 3,840 sequences": ("--batch_size=480",)},
        1,
    ),
    "paper": (
        "",
        ("config/scale_profile_gpu.py",),
        {"": ("--batch_size=480",), "batch of 3,840 sequences": ("--batch_size=3840",)},
        8,
    ),
}
