"""Real sockets on 127.0.0.1, polled by hand."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest


@pytest.fixture
def until() -> Callable[..., float]:
    """Run steps every millisecond until a condition holds; returns the seconds that it took, fails after a limit."""

    def wait(condition: Callable[[], object], *steps: Callable[[float], object], limit_s: float = 5.0) -> float:
        start_s = time.monotonic()
        while True:
            now_s = time.monotonic()
            for step in steps:
                step(now_s)
            if condition():
                return now_s - start_s
            if now_s - start_s > limit_s:
                pytest.fail(f"not within {limit_s} s")
            time.sleep(0.001)

    return wait
