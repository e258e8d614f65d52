"""Simulated tracker, C-arm and pump in one simulated world. They know the truth; the procedure never sees it."""
