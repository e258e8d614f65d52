"""What is wrong with a tracked tool is found within the time allowed, and named."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sacroplasty.errors import GeometryError
from sacroplasty.geometry import rigid, rotation_about
from sacroplasty.navigation.watchdog import Watchdog, WorkingVolume

TOOL, REFERENCE = "TrocarToTracker", "ReferenceToTracker"
PERIOD_S = 1 / 60
#: A camera that looks along z, from 950 to 2400 mm.
VOLUME = WorkingVolume(np.array([0.0, 0, 1]), 950, 2400, 240, 560)
PLACE = np.array([20.0, -30.0, 1500.0])


def watch(
    place: Callable[[float], np.ndarray], seconds: float = 2.0, name: str = TOOL, dog: Watchdog | None = None
) -> tuple[Watchdog, float]:
    """A tool that is at `place` of the time, with a tracker's noise."""
    dog, rng, now_s = dog or Watchdog(VOLUME), np.random.default_rng(1), 0.0
    while now_s < seconds:
        now_s += PERIOD_S
        dog.observe(name, rigid(rotation_about([1, 0, 0], 20), place(now_s) + rng.normal(0, 0.05, 3)), now_s)
    return dog, now_s


def test_a_tool_that_is_seen_is_ok_and_its_pose_is_the_newest() -> None:
    dog, now_s = watch(lambda now_s: PLACE)
    state = dog.state(TOOL, now_s + 0.05)
    assert (state.level, state.text) == ("ok", "")
    assert np.linalg.norm(state.matrix[:3, 3] - PLACE) < 0.5
    assert state.age_s == pytest.approx(0.05)


def test_silence_is_noticed_after_a_tenth_of_a_second() -> None:
    dog, now_s = watch(lambda now_s: PLACE)
    assert dog.state(TOOL, now_s + 0.099).matrix is not None
    state = dog.state(TOOL, now_s + 0.101)
    assert (state.level, state.matrix) == ("lost", None)
    assert state.text == "no pose of Trocar for 0.1 s"
    assert dog.state("StylusToTracker", now_s).text == "Stylus was never seen"


def test_what_the_source_says_against_a_pose_counts_at_once() -> None:
    dog, now_s = watch(lambda now_s: PLACE)
    dog.observe(TOOL, rigid(np.eye(3), PLACE), now_s + PERIOD_S, "out of view")
    state = dog.state(TOOL, now_s + PERIOD_S)
    assert state.matrix is None and state.text == "Trocar is out of view for 0.0 s"
    dog.observe(TOOL, None, now_s + 2 * PERIOD_S)
    assert dog.state(TOOL, now_s + 2 * PERIOD_S).text.startswith("Trocar is not seen")


@pytest.mark.parametrize(
    ("pose", "reason"),
    [
        (np.full((4, 4), np.nan), "NaN"),
        (np.diag([1.1, 1, 1, 1]), "not rigid"),
        (np.diag([1.0, 1, -1, 1]), "left-handed"),
        (rigid(np.eye(3), PLACE).T, "last row"),
        (np.eye(3), "shape"),
    ],
)
def test_a_pose_that_cannot_be_is_named(pose: np.ndarray, reason: str) -> None:
    dog, now_s = watch(lambda now_s: PLACE)
    dog.observe(TOOL, pose, now_s + PERIOD_S)
    state = dog.state(TOOL, now_s + PERIOD_S)
    assert state.matrix is None and reason in state.text and TOOL in state.text


def test_numbers_that_stay_the_very_same_are_no_measurement() -> None:
    dog, now_s = watch(lambda now_s: PLACE)
    for tick in range(12):
        dog.observe(TOOL, rigid(np.eye(3), PLACE), now_s + 0.1 + 0.02 * tick)
        state = dog.state(TOOL, now_s + 0.1 + 0.02 * tick)
        assert (state.matrix is None) == (tick >= 5), tick
    assert "not changed in the least for 0.2 s" in state.text


def test_two_tools_with_one_name_are_named_and_a_quick_hand_is_not() -> None:
    rng = np.random.default_rng(4)
    dog = Watchdog(VOLUME)
    for tick in range(20):
        place = PLACE + (0 if tick % 2 else 150)
        dog.observe(TOOL, rigid(np.eye(3), place + rng.normal(0, 0.05, 3)), tick * PERIOD_S)
    assert dog.state(TOOL, 19 * PERIOD_S).text == "two tools send as TrocarToTracker: give each its own name"
    # To and fro by 200 mm twice a second, faster than any hand that guides.
    quick, now_s = watch(lambda now_s: PLACE + np.array([100 * np.sin(4 * np.pi * now_s), 0, 0]))
    assert quick.state(TOOL, now_s).level == "ok"


def test_the_edge_of_the_volume_warns_before_it_ends_guidance() -> None:
    middle, near_edge, outside = (watch(lambda now_s, z=z: np.array([0, 0, z])) for z in (1600.0, 2370.0, 2410.0))
    assert middle[0].state(TOOL, middle[1]).edge_mm == pytest.approx(390 / np.hypot(1, 320 / 1450), abs=15)
    state = near_edge[0].state(TOOL, near_edge[1])
    assert state.level == "check" and state.matrix is not None
    assert "30 mm from the edge of the tracker's volume" in state.text
    state = outside[0].state(TOOL, outside[1])
    assert state.matrix is None and state.text == "Trocar is outside the tracker's volume"
    unknown, now_s = watch(lambda now_s: np.array([0, 0, 9000.0]), dog=Watchdog())
    assert unknown.state(TOOL, now_s).level == "ok"


def test_the_volume_is_a_pyramid_around_the_cameras_axis() -> None:
    assert VOLUME.edge_mm([0, 0, 950]) == 0
    assert VOLUME.edge_mm([240, 0, 950]) == pytest.approx(0, abs=1e-9)
    assert VOLUME.edge_mm([0, -560, 2400]) == pytest.approx(0, abs=1e-9)
    assert VOLUME.edge_mm([0, 0, 900]) == -50
    looking_left = WorkingVolume(np.array([-2.0, 0, 0]), 950, 2400, 240, 560)
    assert looking_left.edge_mm([-1500, 100, 0]) == pytest.approx(VOLUME.edge_mm([100, 0, 1500]))
    with pytest.raises(GeometryError, match="far side behind"):
        WorkingVolume(np.array([0.0, 0, 1]), 950, 900, 240, 560)


def test_a_tool_that_is_hidden_now_and_then_may_be_used_and_says_so() -> None:
    dog = Watchdog(VOLUME)
    rng = np.random.default_rng(2)
    for tick in range(120):
        hidden = tick % 3 == 1
        pose = rigid(np.eye(3), PLACE + rng.normal(0, 0.05, 3))
        dog.observe(TOOL, pose, tick * PERIOD_S, "out of view" if hidden else "")
    state = dog.state(TOOL, 119 * PERIOD_S)
    assert state.level == "check" and "Trocar is seen 67% of the time only" in state.text


def test_exchanged_tool_and_reference_are_named() -> None:
    def waving(now_s: float) -> np.ndarray:
        return PLACE + np.array([40 * np.sin(3 * now_s), 0, 0])

    dog, now_s = watch(waving, name=REFERENCE)
    dog, now_s = watch(lambda now_s: PLACE, dog=dog)
    assert dog.exchanged(TOOL, REFERENCE, now_s).startswith("Reference moves (80 mm) while Trocar rests")
    right, now_s = watch(lambda now_s: PLACE, name=REFERENCE)
    right, now_s = watch(waving, dog=right)
    assert right.exchanged(TOOL, REFERENCE, now_s) == ""
    # A camera that is moved moves both.
    both, now_s = watch(waving, name=REFERENCE)
    both, now_s = watch(waving, dog=both)
    assert both.exchanged(TOOL, REFERENCE, now_s) == ""
    assert Watchdog().exchanged(TOOL, REFERENCE, 0.0) == ""
