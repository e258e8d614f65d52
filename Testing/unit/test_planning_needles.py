"""Trocars of the catalogue and of free numbers, and what is asked of a plan."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sacroplasty.errors import DocumentError, PlanError
from sacroplasty.planning.depots import ways_to_give
from sacroplasty.planning.model import Accuracy, Depot, Trajectory, VolumeOverride
from sacroplasty.planning.needles import catalogue, custom_needle, needle
from sacroplasty.planning.options import BalloonSize, PlanOptions


def test_the_catalogue_has_both_gauges_in_several_lengths() -> None:
    assert {item.gauge for item in catalogue()} == {11, 13}
    assert needle(11).outer_diameter_mm == pytest.approx(3.048) and needle(13).inner_diameter_mm == pytest.approx(1.803)
    assert {item.length_mm for item in catalogue() if item.gauge == 11} >= {100, 125, 150}


def test_length_and_diameter_are_free() -> None:
    longer = needle(13, 180.0)
    assert (longer.length_mm, longer.outer_diameter_mm, longer.gauge) == (180.0, needle(13).outer_diameter_mm, 13)
    assert "180 mm" in longer.name
    thick = custom_needle(4.2, 120.0)
    assert thick.radius_mm == pytest.approx(2.1) and 0 < thick.inner_diameter_mm < 4.2 and thick.gauge is None


@pytest.mark.parametrize("numbers", [(-3.0, 150.0), (float("nan"), 150.0), (30.48, 150.0), (3.0, 15.0), (3.0, 1500.0)])
def test_a_trocar_that_cannot_be_is_refused(numbers: tuple[float, float]) -> None:
    with pytest.raises(PlanError, match="no trocar has"):
        custom_needle(*numbers)


def test_a_bore_is_narrower_than_its_trocar() -> None:
    with pytest.raises(PlanError, match="bore"):
        custom_needle(3.0, 150.0, inner_diameter_mm=3.0)
    with pytest.raises(PlanError, match="14 G"):
        needle(14)


def test_another_catalogue_is_read_from_its_file(tmp_path) -> None:
    path = tmp_path / "needles.json"
    record = {
        "name": "own", "source": "test", "gauge": 10, "outer_diameter_mm": 3.4, "inner_diameter_mm": 2.7,
        "length_mm": 140, "tip": "bevel",
    }  # fmt: skip
    path.write_text(json.dumps({"schema": {"name": "needles", "version": 1}, "needles": [record]}))
    (own,) = catalogue(path)
    assert (own.name, own.gauge, own.tip) == ("own", 10, "bevel")
    path.write_text(json.dumps({"schema": {"name": "needles", "version": 1}, "needles": []}))
    with pytest.raises(DocumentError):
        catalogue(path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"margin_mm": -1.0}, "margin must be"),
        ({"margin_mm": 0.0}, "margin must be"),
        ({"margin_mm": float("nan")}, "margin must be"),
        ({"margin_mm": 300.0, "preferred_margin_mm": 300.0}, "margin must be"),
        ({"margin_mm": 6.0}, "must not be below"),
        ({"technique": "straight"}, "technique straight"),
        ({"accuracy": Accuracy(registration_sd_mm=-0.5)}, "system error"),
        ({"accuracy": Accuracy(tool_sd_deg=float("nan"))}, "system error"),
        ({"accuracy": Accuracy(registration_sd_mm=500.0)}, "system error"),
        ({"overrides": (VolumeOverride("ala", 10.0, "  "),)}, "say why"),
        ({"overrides": (VolumeOverride("ala", -1.0, "x"),)}, "impossible"),
        ({"overrides": (VolumeOverride("total", 400.0, "x"),)}, "impossible"),
        ({"balloon": BalloonSize(200.0, 15.0)}, "balloon"),
        ({"biopsy_throw_mm": -5.0}, "biopsy"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(options: dict, said: str) -> None:
    with pytest.raises(PlanError, match=said) as caught:
        PlanOptions(**options)
    assert "\n" not in str(caught.value)


def test_limits_of_volume_hold_for_one_ala_and_for_both_and_can_be_changed() -> None:
    usual = PlanOptions()
    assert (usual.limit_ml(1), usual.limit_ml(2)) == (8.0, 6.0)
    changed = PlanOptions(overrides=(VolumeOverride("total", 16.0, "two wide fractures"),))
    assert (changed.limit_ml(1), changed.limit_ml(2)) == (8.0, 8.0)


def test_another_volume_keeps_the_share_of_each_depot() -> None:
    origin, back = [0.0, 0.0, 0.0], [0.0, -8.0, 0.0]
    item = Trajectory(
        "left", "short-axis", back, back, origin, needle(), 8.0, {}, True, depots=(Depot(origin, 3.0), Depot(back, 1.0))
    )
    assert item.planned_volume_ml == 4.0
    assert [depot.volume_ml for depot in item.with_volume(2.0).depots] == [1.5, 0.5]


def test_the_same_cement_can_be_given_at_the_target_or_less_of_it_there() -> None:
    tip, back = np.zeros(3), np.array([0.0, -8.0, 0.0])
    planned = (Depot(tip, 1.5, "too near"), Depot(back, 2.25, "withdraw by 8 mm first"))
    ways = ways_to_give(planned)
    assert ways["planned"] == planned
    assert [(one.position_ras is tip, one.volume_ml) for one in ways["all at the target"]] == [(True, 3.75)]
    assert [(one.position_ras is tip, one.volume_ml) for one in ways["less, at the target"]] == [(True, 1.5)]
    assert list(ways_to_give(planned[:1])) == ["planned"]
