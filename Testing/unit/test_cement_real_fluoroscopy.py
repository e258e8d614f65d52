"""The spread monitor on real intra-operative images: a wire advances, exposure changes, and there is no cement."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from cement_scene import ARM, CENTER
from sacroplasty.cement.monitor import Frame, MonitorSettings, SpreadMonitor
from sacroplasty.errors import ImageError

REAL = Path(__file__).parents[3] / "shared/data/fluoroscopy"
GEOMETRY = ARM.pose(CENTER, [0.0, -1.0, 0.0], [0.0, 0.0, 1.0]).resampled(1024)

pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason="the real fluoroscopy images of ../shared/data are absent")


@pytest.fixture(scope="module")
def pictures():
    pydicom = pytest.importorskip("pydicom")
    return {path.stem[-2:]: pydicom.dcmread(path).pixel_array for path in sorted(REAL.glob("*.dcm"))}


def frame(pixels, time_s=0.0):
    return Frame(pixels, time_s, GEOMETRY)


def still(pixels, count=6):
    """The picture so many times, each with a noise of its own."""
    rng = np.random.default_rng(7)
    return [np.clip(pixels + rng.normal(0, 0.01 * pixels + 100), 0, 65535).astype(np.uint16) for _ in range(count)]


@pytest.mark.parametrize("first", ["20", "22", "24"])
def test_no_cement_is_seen_where_a_wire_advances(pictures, first):
    monitor = SpreadMonitor(settings=MonitorSettings(frame_period_s=1.0))
    monitor.set_reference("ap", [frame(one) for one in still(pictures[first])])
    unchanged, *_ = still(pictures[first], 7)[6:]
    assert monitor.update({"ap": frame(unchanged, 1.0)}, 1.0).volume_ml == 0.0
    for number, name in enumerate(("20", "21", "22", "23", "24", "25", "26"), start=2):
        reading = monitor.update({"ap": frame(pictures[name], float(number))}, float(number))
        # Either nothing has changed, or the monitor says that it cannot tell.
        assert reading.volume_ml == 0.0 or (math.isnan(reading.volume_ml) and not reading.healthy)


def test_a_reference_during_which_the_wire_advances_is_refused(pictures):
    monitor = SpreadMonitor()
    with pytest.raises(ImageError, match="something moved"):
        monitor.set_reference("ap", [frame(pictures[name]) for name in ("20", "21", "22", "23")])
