"""What a C-arm reaches, and what its operator is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sacroplasty.errors import DocumentError, GeometryError
from sacroplasty.geometry import angle_between_deg
from sacroplasty.xray.geometry import CArm
from sacroplasty.xray.reach import (
    ReachableRange,
    angles_of_direction,
    direction_of_angles,
    direction_text,
    prone_text,
    read_range,
    turn_text,
)

RANGE = ReachableRange((-45.0, 95.0), (-60.0, 60.0))


@settings(deadline=None)
@given(st.floats(-179, 179), st.floats(-89, 89))
def test_angles_and_directions_are_inverse_and_those_of_the_geometry(primary: float, secondary: float) -> None:
    direction = direction_of_angles(primary, secondary)
    assert angles_of_direction(direction) == pytest.approx((primary, secondary), abs=1e-6)
    geometry = CArm().at_positioner_angles([0, 0, 0], primary, secondary)
    assert np.allclose(geometry.view_direction_ras, direction)


@settings(deadline=None)  # it searches, and machines are busy
@given(st.floats(-179, 179), st.floats(-89, 89))
def test_the_nearest_reachable_beam_is_nearer_than_any_of_a_grid(primary: float, secondary: float) -> None:
    wanted = direction_of_angles(primary, secondary)
    nearest = RANGE.nearest(wanted)
    assert RANGE.contains(nearest)
    around, along = np.meshgrid(np.arange(-45, 95.1, 5), np.arange(-60, 60.1, 5))
    grid = direction_of_angles(around.ravel(), along.ravel())
    off = angle_between_deg(nearest, wanted)
    assert off <= np.degrees(np.arccos(np.clip(grid @ wanted, -1, 1))).min() + 0.01
    assert (off < 1e-6) == RANGE.contains(wanted)


@pytest.mark.parametrize(
    ("primary", "secondary", "detector", "prone"),
    [
        (0, 0, "LAO 0°, CRA 0°", "straight up"),
        (0, -43, "LAO 0°, CAU 43°", "43° to the head"),
        (-4, 21, "RAO 4°, CRA 21°", "21° to the feet, 4° to the left"),
        (90, 0, "LAO 90°, CRA 0°", "horizontal"),
        (180, 43, "LAO 180°, CRA 43°", "43° to the head"),
    ],
)
def test_angles_in_the_words_of_the_operator(primary: float, secondary: float, detector: str, prone: str) -> None:
    direction = direction_of_angles(primary, secondary)
    assert direction_text(direction) == detector
    assert prone_text(direction) == prone
    assert prone_text(-direction) == prone, "whichever end the tube is at"


def test_a_turn_is_told_in_the_patient_s_directions() -> None:
    now = direction_of_angles(10, -40)
    assert turn_text(now, direction_of_angles(6, -45)) == (
        "turn the detector 4° to the patient's right and 5° to the feet"
    )
    assert turn_text(now, direction_of_angles(10, -30)) == "turn the detector 10° to the head"
    assert turn_text(now, now) == "stands right"
    assert turn_text(direction_of_angles(178, 0), direction_of_angles(-178, 0)) == (
        "turn the detector 4° to the patient's left"
    )


@pytest.mark.parametrize(
    ("primary", "secondary", "words"),
    [
        ((50, 20), (-60, 60), "primary_deg"),
        ((-45, 95), (-100, 60), "secondary_deg"),
        ((float("nan"), 1), (0, 1), "nan"),
    ],
)
def test_impossible_limits_are_refused(primary: tuple, secondary: tuple, words: str) -> None:
    with pytest.raises(GeometryError, match=words):
        ReachableRange(primary, secondary).check()


def test_limits_are_read_from_a_document(tmp_path: Path) -> None:
    assert read_range() == RANGE
    record = {"schema": {"name": "reachable_range", "version": 1}, "primary_deg": [-90, 30], "secondary_deg": [-40, 40]}
    (tmp_path / "mine.json").write_text(json.dumps(record))
    assert read_range(tmp_path / "mine.json") == ReachableRange((-90.0, 30.0), (-40.0, 40.0))
    (tmp_path / "mine.json").write_text(json.dumps({**record, "secondary_deg": ["low", 3]}))
    with pytest.raises(DocumentError, match="secondary_deg"):
        read_range(tmp_path / "mine.json")
