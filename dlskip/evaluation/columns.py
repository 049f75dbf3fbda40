"""The columns of the tables that an evaluation leaves, for writers and readers; imports nothing heavy."""

from __future__ import annotations

from dlskip.methods.settings import KNOBS

# rows.csv, of evaluations and of speeds
RESULTS = ["method", "backbone", "seed", *KNOBS, "batch", "split", "task", "metric", "value", "skip_ratio", "n"]
# layers.csv
LAYERS = ["method", "backbone", "seed", *KNOBS, "batch", "task", "phase", "layer", "skip_rate", "skip_std"]
