"""Fixtures for all tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sacroplasty.image import Volume

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Path:
    """Real data beside the checkout."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data set ../shared/data is not beside this checkout")
    return SHARED_DATA


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20261123)


@pytest.fixture
def a_small_ct(rng: np.random.Generator) -> Volume:
    """Air, soft tissue and a block of bone on a 3 mm grid, with axes that differ so that a swap shows."""
    voxels = np.full((24, 28, 32), -1000, np.int16)
    voxels[3:21, 4:24, 4:28] = 40
    voxels[8:16, 8:14, 10:22] = 600
    voxels = (voxels + rng.normal(0, 10, voxels.shape)).astype(np.int16)
    IJKToRAS = np.diag([-3.0, -3.0, 3.0, 1.0])
    IJKToRAS[:3, 3] = [45, 40, -300]
    return Volume(voxels, IJKToRAS)
