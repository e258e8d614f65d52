"""The prediction of a planned tip in a sacrum of planes and cylinders, which leaks where a test opens it."""

import math
from dataclasses import replace

import numpy as np
import pytest

from sacroplasty.anatomy.fracture_marking import fracture_from_plane
from sacroplasty.cement.grid import grid_points
from sacroplasty.cement.line import cannula_line
from sacroplasty.cement.medium import VEIN, Uncertainty, draw, make_medium
from sacroplasty.cement.prediction import predict_spread
from sacroplasty.cement.presets import default_preset
from sacroplasty.cement.spread import balloon_cavity
from sacroplasty.errors import PlanError
from sacroplasty.geometry import transform_points
from sacroplasty.planning.model import Depot
from sacroplasty.planning.pose_uncertainty import PoseUncertainty

#: In the sacrum's axes (left, posterior, superior): 10.5 mm beside the left S1 foramen, which has a radius of 5.5 mm.
BESIDE_S1 = np.array([37.0, 10.0, -28.0])
#: Nothing is open but what a test opens.
CLOSED = Uncertainty(
    cleft_breaks_cortex=0.0, dense_cortex_open=0.0, thin_cortex_open=0.0, veins_per_ml=0.0, tip_sd_mm=0.0
)


@pytest.fixture(scope="module")
def tip(simple):
    return transform_points(simple.SacrumToRAS, BESIDE_S1)


@pytest.fixture
def predict(simple, simple_anatomy, tip):
    def run(volume_ml=2.0, anatomy=simple_anatomy, depots=None, members=3, **options):
        return predict_spread(
            simple.ct,
            anatomy,
            [Depot(tip, volume_ml)] if depots is None else depots,
            "left",
            cannula_line(11, 2.388, 150.0),
            default_preset(),
            members=members,
            **options,
        )

    return run


def test_closed_bone_keeps_its_cement_and_says_how_near_it_comes(predict, simple_anatomy, tip):
    small, large = predict(0.5, uncertainty=CLOSED), predict(3.0, uncertainty=CLOSED)
    assert (small.any_leak, large.any_leak) == (0.0, 0.0)
    foramen = simple_anatomy.bones.ras_of(np.argwhere(simple_anatomy.region("foramen_s1_left")))
    # A ball of 0.5 mL in bone has a radius of 5.2 mm; the voxels of the foramen are 2 mm large.
    away = np.linalg.norm(foramen - tip, axis=1).min() - 1.0
    assert small.risks["foramen_s1_left"].distance_mm == pytest.approx(away - 5.2, abs=0.8)
    assert small.risks["foramen_s1_left"].distance_mm > large.risks["foramen_s1_left"].distance_mm
    at_risk = large.risks["foramen_s1_left"].volume_at_risk_ml
    assert at_risk is not None and 1.0 < at_risk < 3.0
    assert math.isinf(large.risks[VEIN].distance_mm)
    assert large.risks["foramen_s1_left"].interval[0] == 0.0
    assert large.cement.voxels.sum(dtype=float) * large.cement.voxel_volume_ml == pytest.approx(3.0, rel=1e-4)
    assert 0.95 < large.in_plan_fraction <= 1.0


def test_probability_is_one_at_the_tip_none_far_off_and_holds_the_volume(predict, tip):
    found = predict(3.0, members=8, uncertainty=replace(CLOSED, tip_sd_mm=1.5))
    away = np.linalg.norm(grid_points(found.probability) - tip, axis=-1)
    values = found.probability.voxels
    assert values[away < 3.0].min() == 1.0
    assert values[away > 20.0].max() == 0.0
    assert set(np.unique(np.round(values * 8, 4))) <= set(range(9))
    expected_ml = 3.0 / 0.835
    assert values.sum(dtype=float) * found.probability.voxel_volume_ml == pytest.approx(expected_ml, rel=0.08)
    assert (values >= 0.9).sum() < (values >= 0.5).sum()


def test_a_fracture_that_opens_into_a_foramen_leaks_there(predict, simple, simple_anatomy, tip):
    # A cleft through the tip and the middle of the foramen, across the ala.
    cleft = fracture_from_plane(tip, simple.SacrumToRAS[:3, 2], simple_anatomy)
    broken = replace(simple_anatomy, fractures=(cleft,))
    open_cleft = replace(CLOSED, cleft_breaks_cortex=1.0, cleft_width_mm=(3.0, 3.0))
    whole, leaking = predict(3.0, uncertainty=open_cleft), predict(3.0, broken, uncertainty=open_cleft)
    assert whole.any_leak == 0.0
    risk = leaking.risks["foramen_s1_left"]
    assert risk.probability == 1.0 and leaking.any_leak == 1.0
    assert risk.earliest_ml is not None and risk.median_ml is not None
    assert 0.3 < risk.earliest_ml <= risk.median_ml < 3.0
    assert next(iter(leaking.risks.values())).probability == 1.0, "the most probable comes first"
    held = predict(3.0, broken, uncertainty=replace(open_cleft, cleft_breaks_cortex=0.0))
    assert held.any_leak == 0.0


def test_a_narrow_cleft_leaks_later_than_a_wide_one(predict, simple, simple_anatomy, tip):
    cleft = fracture_from_plane(tip, simple.SacrumToRAS[:3, 2], simple_anatomy)
    broken = replace(simple_anatomy, fractures=(cleft,))
    volumes = []
    for width_mm in (0.5, 3.0):
        assumed = replace(CLOSED, cleft_breaks_cortex=1.0, cleft_width_mm=(width_mm, width_mm))
        risk = predict(4.0, broken, uncertainty=assumed).risks["foramen_s1_left"]
        volumes.append(risk.median_ml if risk.median_ml is not None else math.inf)
    assert volumes[0] > volumes[1]


def test_veins_are_a_route_that_no_image_shows(predict):
    found = predict(5.0, uncertainty=replace(CLOSED, veins_per_ml=2.0, vein_diameter_mm=(5.0, 5.0)))
    assert found.risks[VEIN].probability > 0.5
    assert found.risks["foramen_s1_left"].probability == 0.0


def test_more_cement_leaks_more(predict):
    shares = [predict(volume_ml, members=6).any_leak for volume_ml in (0.5, 6.0)]
    assert shares[0] < shares[1]


def test_the_same_seed_gives_the_same_bones(simple, simple_anatomy, tip, predict):
    medium = make_medium(simple.ct, simple_anatomy, tip, ("left",), 20.0, 2.0)
    one, two, other = (draw(medium, Uncertainty(), np.random.default_rng([seed, 3])) for seed in (1, 1, 2))
    assert np.array_equal(one.resistance.voxels, two.resistance.voxels)
    assert not np.array_equal(one.resistance.voxels, other.resistance.voxels)
    assert predict(1.0, seed=5).risks == predict(1.0, seed=5).risks


def test_the_pose_of_a_navigated_trocar_blurs_the_prediction(predict, tip):
    even = replace(CLOSED, permeability_log_sd=0.0, porosity=(0.85, 0.85))
    sure = predict(1.0, members=6, uncertainty=even)
    pose = PoseUncertainty(tip, np.diag([9.0, 0, 0, 0, 0, 0]))
    unsure = predict(1.0, members=6, uncertainty=even, pose=pose)
    assert sure.probability.voxels[sure.probability.voxels > 0].min() == 1.0, "nothing differs between the members"
    reach = [np.ptp(grid_points(one.probability)[one.probability.voxels > 0], axis=0) for one in (sure, unsure)]
    assert reach[1][0] > reach[0][0] + 4.0, "along the axis that is not known"
    assert reach[1][1:] == pytest.approx(reach[0][1:], abs=2.0)


def test_depots_and_a_balloon(predict, tip, simple):
    back = simple.SacrumToRAS[:3, 1]
    two = predict(depots=[Depot(tip, 1.5), Depot(tip + 10 * back, 1.0)], uncertainty=CLOSED)
    assert two.volume_ml == 2.5
    assert two.cement.voxels.sum(dtype=float) * two.cement.voxel_volume_ml == pytest.approx(2.5, rel=1e-4)
    one = predict(2.5, uncertainty=CLOSED)
    # What is spread over two places stays farther from the foramen.
    assert two.risks["foramen_s1_left"].distance_mm >= one.risks["foramen_s1_left"].distance_mm
    filled = predict(1.0, uncertainty=CLOSED, cavity=balloon_cavity(tip, 1.0))
    assert filled.cement.voxels.max() == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"volume_ml": 0.0}, "positive volume"),
        ({"volume_ml": math.nan}, "positive volume"),
        ({"volume_ml": 40.0}, "absurd"),
        ({"flow_ml_s": -0.05}, "flow"),
        ({"flow_ml_s": math.nan}, "flow"),
        ({"members": 0}, "ensemble"),
        ({"depots": []}, "no depot"),
    ],
)
def test_absurd_wishes_are_refused(predict, options, word):
    with pytest.raises(PlanError, match=word):
        predict(**options)


def test_it_can_be_ended_and_says_how_far_it_is(predict):
    shares = []

    def stop(share: float) -> None:
        shares.append(share)
        if len(shares) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict(0.5, progress=stop)
    assert shares == sorted(shares) and shares[-1] < 1.0
    shares.clear()
    predict(0.5, members=2, progress=shares.append)
    assert shares[-1] == 1.0
