"""Calibration: which threshold runs a given share of the layers, or loses at most a given quality."""

from dlskip.errors import needs

with needs("bench"):  # scipy
    from dlskip.calibration.choose import Calibration, Measurements, check_possible, for_budget, for_quality
    from dlskip.calibration.measure import agreement, answers, exact_match, layers_run, measure_settings
    from dlskip.calibration.risk import examples_needed, p_value, upper_bound

__all__ = [
    "Calibration", "Measurements", "agreement", "answers", "check_possible", "exact_match", "examples_needed",
    "for_budget", "for_quality", "layers_run", "measure_settings", "p_value", "upper_bound",
]  # fmt: skip
