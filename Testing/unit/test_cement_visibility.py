"""How little cement a view could show is told before any is given, and another view proposed where it is too much."""

from __future__ import annotations

import numpy as np
import pytest

from cement_scene import ARM, CENTER, sphere_line_integrals, views
from sacroplasty.cement.background import Background
from sacroplasty.cement.monitor import Frame, MonitorSettings, SpreadMonitor
from sacroplasty.cement.reference import learn_background
from sacroplasty.cement.visibility import LEAST_SHOWN_ML, DarkViewError, Sight
from sacroplasty.image import Volume
from sacroplasty.xray.geometry import XrayGeometry
from sacroplasty.xray.project import CEMENT_PER_MM, ProjectableVolume, line_integrals

AP = views(144)["ap"]
#: Balls of bone around the tip, as dense as cement: middle from the tip [mm], and mL.
BALLS = (([8.0, 10.0, -6.0], 4.0), ([-12.0, -14.0, 9.0], 6.0), ([2.0, 20.0, 18.0], 3.0), ([-20.0, 4.0, -16.0], 5.0))
BEAM = 400.0


def grid(half_mm: tuple[float, float, float], spacing_mm: float) -> Volume:
    """An empty volume around the tip."""
    counts = [round(2 * half / spacing_mm) for half in half_mm]
    IJKToRAS = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    IJKToRAS[:3, 3] = CENTER - (np.array(counts) - 1) / 2 * spacing_mm
    return Volume(np.zeros(counts[::-1], np.float32), IJKToRAS)


def points_of(volume: Volume) -> np.ndarray:
    return volume.ras_of(np.moveaxis(np.indices(volume.voxels.shape), 0, -1)) - CENTER


@pytest.fixture(scope="module")
def balls() -> ProjectableVolume:
    """The balls as a CT shows them."""
    volume = grid((45.0, 45.0, 45.0), 1.0)
    points = points_of(volume)
    for middle, volume_ml in BALLS:
        inside = (volume_ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3) - np.linalg.norm(points - middle, axis=-1)
        volume.voxels[:] += CEMENT_PER_MM * np.clip(inside + 0.5, 0, 1)
    return ProjectableVolume.of(volume)


def picture_of_balls(veil: float, gamma: float = 1.0, dose: float = 1.0) -> Background:
    """The AP view of the balls in closed form under a veil of scatter that slopes, which a curve of greys may bend."""
    total = sum(sphere_line_integrals(AP, CENTER + middle, volume_ml) for middle, volume_ml in BALLS)
    slope = np.linspace(0.9, 1.1, 144)[:, None]
    expected = BEAM * np.exp(-total) + veil * slope
    rng = np.random.default_rng(3)
    greys = [9000 * (rng.poisson(dose * expected) / dose / 2000) ** gamma for _ in range(8)]
    return learn_background([one.astype(np.uint16) for one in greys], AP, CENTER[None])


@pytest.mark.parametrize("veil", [0.0, 200.0, 600.0, 1600.0])
def test_the_share_that_scatter_leaves_is_told_from_the_reference(balls, veil):
    beam = BEAM * np.exp(-sum(sphere_line_integrals(AP, CENTER + middle, ml) for middle, ml in BALLS))
    v, u = np.rint(AP.project(CENTER)[::-1]).astype(int)
    near = beam[v - 6 : v + 7, u - 6 : u + 7].mean()
    seen = Sight(balls, CENTER, CEMENT_PER_MM).through(picture_of_balls(veil))
    assert seen.share == pytest.approx(near / (near + veil), abs=0.05)


def test_more_scatter_asks_for_more_cement_and_a_curve_of_greys_for_no_more(balls):
    sight = Sight(balls, CENTER, CEMENT_PER_MM)
    clear, hazy = (sight.through(picture_of_balls(veil, dose=0.1)) for veil in (0.0, 1600.0))
    assert clear.smallest_ml < LEAST_SHOWN_ML < hazy.smallest_ml
    bent = sight.through(picture_of_balls(1600.0, gamma=0.55, dose=0.1))
    assert bent.share < 0.7 * hazy.share
    assert bent.smallest_ml == pytest.approx(hazy.smallest_ml, rel=0.15)


def test_what_shows_nothing_of_the_patient_is_dark(balls):
    flat = learn_background(
        [np.random.default_rng(n).poisson(2000, (144, 144)).astype(np.uint16) for n in range(8)], AP, CENTER[None]
    )
    seen = Sight(balls, CENTER, CEMENT_PER_MM).through(flat)
    assert seen.share < 0.05 and seen.dark


@pytest.fixture(scope="module")
def pelvis() -> ProjectableVolume:
    """Soft tissue, a bone with holes around the tip, and a thick plate of bone on either side, that closes the lateral
    view."""
    volume = grid((150.0, 100.0, 90.0), 2.0)
    x, y, z = np.moveaxis(points_of(volume), -1, 0)
    volume.voxels[(x / 145) ** 2 + (y / 95) ** 2 < 1] = 0.02
    bone = (np.abs(x) < 25) & (np.abs(y) < 20) & (np.abs(z) < 30)
    volume.voxels[bone & (np.sin(x / 4) * np.sin(y / 5) + np.sin(z / 3) > 0)] = 0.05
    volume.voxels[(np.abs(np.abs(x) - 60) < 20) & (np.abs(y) < 25) & (np.abs(z) < 35)] = 0.06
    return ProjectableVolume.of(volume)


def pose(view: str) -> XrayGeometry:
    return ARM.view(view, np.diag([-1.0, -1.0, 1.0, 1.0])).resampled(192)


def reference(pelvis: ProjectableVolume, view: str, dose: float = 1.0) -> list[Frame]:
    """Frames with scatter of 30 % of the beam in the middle half of the picture."""
    beam = np.exp(-line_integrals(pelvis, pose(view)))
    middle = beam[48:144, 48:144].mean()
    expected = 800 * dose * (beam / middle + 0.3)
    rng = np.random.default_rng(1)
    return [
        Frame(np.minimum(4 / dose * rng.poisson(expected), 65535).astype(np.uint16), 0.2 * n, pose(view))
        for n in range(8)
    ]


def test_a_dark_view_is_refused_before_cement_and_a_better_one_named(pelvis):
    monitor = SpreadMonitor(None, CENTER, MonitorSettings(), attenuation=pelvis)
    monitor.set_reference("outlet", reference(pelvis, "outlet"))
    with pytest.raises(DarkViewError, match=r"view lateral: too dark .* 0.05 mL .* collimate") as refused:
        monitor.set_reference("lateral", reference(pelvis, "lateral"))
    assert refused.value.instead == "inlet", refused.value
    assert f"take the {refused.value.instead} view instead" in str(refused.value)
    assert monitor.views == ("outlet",), "a refused view is not watched"
    monitor.set_reference("inlet", reference(pelvis, "inlet"))
    assert set(monitor.visibility) == {"outlet", "inlet"}
    assert not any(seen.dark for seen in monitor.visibility.values())


def test_without_a_ct_no_view_is_refused_for_being_dark(pelvis):
    monitor = SpreadMonitor(None, CENTER, MonitorSettings())
    monitor.set_reference("lateral", reference(pelvis, "lateral"))
    assert monitor.views == ("lateral",) and monitor.visibility == {}


def test_more_dose_makes_a_dark_view_bright_enough(pelvis):
    monitor = SpreadMonitor(None, CENTER, MonitorSettings(), attenuation=pelvis)
    monitor.set_reference("lateral", reference(pelvis, "lateral", dose=100.0))
    assert monitor.views == ("lateral",)
