"""Simulation-based calibration: whether a method's posteriors hold the truth as often as they say."""

from triptych.inference.calibration import chain_runners as chain_runners
from triptych.inference.calibration import guide_runners as guide_runners
from triptych.inference.calibration.calibrate import calibrate
from triptych.inference.calibration.result import Calibration

__all__ = ["Calibration", "calibrate"]
