"""The laboratory: what reproduces the paper's tables and figures with the product (train.py, model.py, optim/, data/).

experiments.py  the rows of each table and figure, and what each scale makes of them: data; published.py: the paper's
                numbers; markdown.py: a table
runs.py         what a training run is, and its id
pool.py         do many runs, each once, whatever dies in the meantime; cluster.py: as jobs of SLURM
store.py        what results/ holds of these runs; outcomes.py: means, spreads, and when a difference is one; ngrams.py
grid.py         a sweep over any settings; theory.py: the theorem and the proposition
proportions.py  what a scale does to the paper's proportions
tables.py, figures.py    from what results/ holds to a table, a figure, a summary; drawing.py: the pictures themselves
contest.py      AdamW replaced with MADA on tasks of different kinds; ablation.py, variants.py: MADA with one thing
                changed; muon.py: Muon compared with both; growth.py: a learning rate that only grows
contest_runs.py what results/ holds of these; verdict.py: what it says; replication.py: bad cells again;
                page_parts.py: what their pages share; NAME_report.py: a page each; contest_tables.py, contest_paths.py:
                the contest's; contest_drawing.py: pictures; questions.py: all as names of scripts/reproduce.py
gpu.py          what a GPU is predicted to show, compared with what scripts/gpu_report.py measures there
curves.py       pictures of single runs, for scripts/plot.py
laboratory.py   all of it for one name at one scale, and what that takes
table_findings.py, figure_findings.py    what a result says of the paper's claim (findings.py)
pages.py        results/README.md

Imports point from the last line to the first; scripts/ are thin command lines on top.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
