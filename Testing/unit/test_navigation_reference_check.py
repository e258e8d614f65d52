"""Whether the patient still lies where it was registered."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.errors import CalibrationError
from sacroplasty.geometry import rigid, rotation_about
from sacroplasty.navigation.reference_check import ReferenceWatch, recheck_point

REFERENCE = rigid(rotation_about([1, 0, 0], 170), [40, -30, 1400])
TABLE = rigid(rotation_about([0, 1, 0], 20), [-250, 80, 1300])


def test_a_point_that_is_touched_again_is_off_by_chance_or_has_moved() -> None:
    rng = np.random.default_rng(0)
    sd = 0.5 / np.sqrt(3)
    found = [recheck_point("crest", rng.normal(0, sd, 3), rng.normal(0, sd, 3)).moved for _ in range(500)]
    # One in a thousand, by chance.
    assert sum(found) <= 3
    moved = recheck_point("crest", [0, 0, 0], [0, 1.9, 0])
    assert moved.moved
    assert moved.text == "crest: 1.9 mm off (limit 1.6); the patient or the reference has moved: register again"
    # However badly points are touched, two millimetres are too much.
    assert recheck_point("crest", [0, 0, 0], [0, 2.1, 0], touch_error_mm=2.0).moved
    with pytest.raises(CalibrationError, match="'crest' is no number"):
        recheck_point("crest", [0, 0, 0], [0, np.nan, 0])


def jittered(pose: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The mean of a second of poses: 0.1 mm and 0.11 deg of noise, 60 of them."""
    turn = rotation_about(rng.normal(size=3), rng.normal() * 0.2 / np.sqrt(60))
    return rigid(turn @ pose[:3, :3], pose[:3, 3] + rng.normal(0, 0.1 / np.sqrt(60), 3))


def test_a_bumped_reference_is_told_from_a_camera_that_was_moved() -> None:
    rng = np.random.default_rng(1)
    watch = ReferenceWatch()
    assert watch.look(REFERENCE, {"Table": TABLE}).movement == "unknown"
    for _ in range(50):
        assert watch.look(jittered(REFERENCE, rng), {"Table": jittered(TABLE, rng)}).movement == "still"
    push = rigid(rotation_about([0, 0, 1], 5), [30, 0, 0])
    moved = watch.look(push @ REFERENCE, {"Table": push @ TABLE})
    assert moved.movement == "camera moved"
    bumped = push @ REFERENCE @ rigid(rotation_about([1, 0, 0], 1.5), [0, 0, 0])
    seen = watch.look(bumped, {"Table": push @ TABLE})
    assert seen.movement == "reference moved"
    assert seen.jump_mm == pytest.approx(2 * 150 * np.sin(np.radians(0.75)), rel=0.01)


def test_without_anything_at_rest_a_jump_asks_for_a_check_point() -> None:
    watch = ReferenceWatch()
    watch.look(REFERENCE, {})
    seen = watch.look(rigid(np.eye(3), [5, 0, 0]) @ REFERENCE, {"Table": None})
    assert (seen.movement, seen.text) == (
        "check",
        "the reference, or the camera, moved by 5.0 mm: touch a check point",
    )


def test_a_reference_that_is_not_seen_is_unknown_and_what_happened_meanwhile_is_found() -> None:
    watch = ReferenceWatch()
    watch.look(REFERENCE, {"Table": TABLE})
    assert watch.look(None, {"Table": TABLE}).movement == "unknown"
    assert watch.look(np.full((4, 4), np.nan), {"Table": TABLE}).movement == "unknown"
    assert watch.look(rigid(np.eye(3), [5, 0, 0]) @ REFERENCE, {"Table": TABLE}).movement == "reference moved"
