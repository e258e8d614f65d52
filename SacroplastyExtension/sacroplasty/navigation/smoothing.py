"""Steadier poses at a delay that is stated and never exceeded."""

from __future__ import annotations

from collections import deque

import numpy as np

from ..geometry import FloatArray, rigid


class PoseSmoother:
    """Mean of the poses of the last moments.

    A mean of samples lags behind the tool by the mean of their ages. Samples are dropped, the oldest first, until that
    is at most the delay allowed, so the lag is bounded at any rate, regular or not, and at any speed; that is why it is
    no low-pass of a fixed frequency, whose lag at rest would be many times longer. Noise falls with the square root of
    the number of samples; a tool that moves at v is shown v times the delay behind.
    """

    def __init__(self, most_delay_s: float) -> None:
        """
        Args:
            most_delay_s: what it may add to the age of a pose; 0 hands poses through.
        """
        if not (np.isfinite(most_delay_s) and most_delay_s >= 0):
            raise ValueError(f"a delay is a number of seconds from 0 on, not {most_delay_s}")
        self._most_delay_s = most_delay_s
        self._samples: deque[tuple[float, FloatArray]] = deque()

    def add(self, pose: FloatArray, measured_s: float) -> tuple[FloatArray, float]:
        """Take a pose (4, 4) that was measured then.

        Returns:
            The mean pose and the delay in s that it adds to the age of the newest sample.
        """
        if self._samples and not 0 < measured_s - self._samples[-1][0] <= 2 * self._most_delay_s:
            # After a gap, or a clock that was set, what was before tells nothing.
            self._samples.clear()
        self._samples.append((measured_s, pose))
        while (delay_s := self._delay_s()) > self._most_delay_s:
            self._samples.popleft()
        if len(self._samples) == 1:
            return pose, 0.0
        poses = np.stack([sample for _, sample in self._samples])
        # The rotation nearest to the mean of the rotation matrices (orthogonal Procrustes problem).
        u, _, vt = np.linalg.svd(poses[:, :3, :3].mean(axis=0))
        turn = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
        return rigid(turn, poses[:, :3, 3].mean(axis=0)), delay_s

    def reset(self) -> None:
        """Forget all samples, as after the tool was lost."""
        self._samples.clear()

    def _delay_s(self) -> float:
        newest_s = self._samples[-1][0]
        return float(np.mean([newest_s - time_s for time_s, _ in self._samples]))
