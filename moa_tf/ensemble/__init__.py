"""Blends of runs: weights, calibration, and the blend as a run of its own."""
