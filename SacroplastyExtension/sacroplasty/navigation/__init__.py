"""Pivot calibration, patient registration, live guidance of the trocar with its error at the target."""
