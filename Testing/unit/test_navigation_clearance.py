"""Live clearance on a sacrum of plain boxes, where every distance is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sacroplasty.anatomy.labels import BONE_LABEL, LEVELS, REGION_LABEL
from sacroplasty.anatomy.model import Anatomy, Foramen, Opening
from sacroplasty.errors import PlanError
from sacroplasty.geometry import invert_rigid, rigid, transform_points
from sacroplasty.image import Volume
from sacroplasty.navigation.clearance import ShaftClearance, StackedFields
from sacroplasty.planning.sacrum_view import view_along_foramina
from sacroplasty.planning.structures import Structures

SPACING_MM = 1.5
ORIGIN_RAS = np.array([-90.0, -60.0, -70.0])
SHAPE_KJI = (90, 60, 120)


def box(low_ras: list[float], high_ras: list[float]) -> np.ndarray:
    k, j, i = np.indices(SHAPE_KJI)
    ras = ORIGIN_RAS + SPACING_MM * np.stack([i, j, k], axis=-1)
    return ((ras >= low_ras) & (ras <= high_ras)).all(axis=-1)


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    """Sacrum from A -30 to 0 and 50 mm to either side, foramina 20 mm from the midline, hips 4 mm beside it."""
    bones, regions = np.zeros(SHAPE_KJI, np.uint8), np.zeros(SHAPE_KJI, np.uint8)
    bones[box([-50, -30, -50], [50, 0, 40])] = BONE_LABEL["sacrum"]
    regions[box([-6, -30, -50], [6, -18, 40])] = REGION_LABEL["sacral_canal"]
    foramina = {}
    for sign, side in ((-1, "left"), (1, "right")):
        low, high = sorted((54 * sign, 80 * sign))
        bones[box([low, -40, -50], [high, 20, 40])] = BONE_LABEL[f"hip_{side}"]
        for number, level in enumerate(LEVELS):
            x, z = 20.0 * sign, 20.0 - 20 * number
            regions[box([x - 4, -30, z - 4], [x + 4, 0, z + 4])] = REGION_LABEL[f"foramen_{level}_{side}"]
            foramina[f"foramen_{level}_{side}"] = Foramen(
                Opening(np.array([x, 0, z]), np.array([0.0, 1, 0]), 8.0, 8.0),
                Opening(np.array([x, -30, z]), np.array([0.0, -1, 0]), 8.0, 8.0),
                np.array([x + 4 * sign, -30, z]),
            )
    bones[(regions > 0)] = 0
    grid = Volume(bones, rigid(SPACING_MM * np.eye(3), ORIGIN_RAS))
    names = ["sacrum", "sacral_canal", "hip_left", "hip_right", *foramina]
    return Anatomy(
        bones=grid,
        regions=grid.like(regions),
        foramina=foramina,
        landmarks={},
        SacrumToRAS=rigid(np.diag([-1.0, -1.0, 1.0]), [0, -10, 40]),
        confidence=dict.fromkeys(names, 0.9),
        warnings=(),
        method="test",
        image_hash="",
    )


@pytest.fixture(scope="module")
def clearance(anatomy: Anatomy) -> ShaftClearance:
    return ShaftClearance.of_anatomy(anatomy)


def test_the_shaft_keeps_its_distances_from_everything(clearance: ShaftClearance) -> None:
    distances = clearance.distances_mm([-36, -9, 20], [-36, -60, 20], 3.0, "left")
    # The foramen's lateral wall is at -24, the hip at -54, the front of the sacrum at 0, the canal at -6.
    # Distances keep a guard against labels and grid, and end at 20 mm.
    for name, truth in (("foramen_s1_left", 12), ("hip_left", 18), ("anterior_cortex", 9), ("sacral_canal", 28.5)):
        assert min(truth, 19) - 1.5 - 2.2 < distances[name] <= truth - 1.5, name
    assert distances["foramen_s1_right"] > 18


def test_going_on_through_the_front_is_seen(clearance: ShaftClearance) -> None:
    depths = [clearance.distances_mm([-36, tip, 20], [-36, -60, 20], 3.0)["anterior_cortex"] for tip in (-12, -6, 0, 6)]
    # Outside of a structure distances keep the guard, inside they do not.
    assert (np.diff(depths) < -3.5).all()
    assert depths[2] == pytest.approx(-1.5, abs=1.0)
    nearest = clearance.assess([-36, 6, 20], [-36, -60, 20], 3.0).nearest
    assert nearest.structure == "anterior_cortex"
    assert nearest.distance_mm < -5


def test_a_structure_without_confidence_forbids_its_side(anatomy: Anatomy) -> None:
    confidence = {name: value for name, value in anatomy.confidence.items() if name != "foramen_s2_left"}
    clearance = ShaftClearance.of_anatomy(replace(anatomy, confidence=confidence))
    left, right = ([-36, -9, 20], [-36, -60, 20]), ([36, -9, 20], [36, -60, 20])
    assert clearance.assess(*left, 3.0, "left").nearest.distance_mm == -np.inf
    assert clearance.assess(*right, 3.0, "right").nearest.distance_mm == pytest.approx(7.5, abs=1.0)


def test_without_foramina_there_is_no_clearance_at_all(anatomy: Anatomy) -> None:
    with pytest.raises(PlanError, match="foramina"):
        ShaftClearance.of_anatomy(replace(anatomy, foramina={}))


def test_guidance_gives_the_figures_of_the_plan(anatomy: Anatomy, clearance: ShaftClearance) -> None:
    view = view_along_foramina(anatomy)
    fields = Structures(anatomy, view).fields
    rng = np.random.default_rng(2)
    for _ in range(20):
        tip, back = rng.uniform([-60, -40, -50], [60, 10, 40]), rng.uniform([-60, -150, -50], [60, -80, 40])
        found = clearance.distances_mm(tip, back, 3.0)
        count = max(2, int(np.ceil(np.linalg.norm(back - tip) / 0.5)) + 1)
        shaft = transform_points(invert_rigid(view.ViewToRAS), tip + np.linspace(0, 1, count)[:, None] * (back - tip))
        assert set(found) == set(fields)
        for name, field in fields.items():
            assert found[name] == pytest.approx(field.at_view(shaft).min() - 1.5, abs=1e-4), name


def test_places_beyond_the_grid_take_the_distance_at_its_border() -> None:
    field = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    stacked = StackedFields([field, -field], np.eye(4))
    inside, beyond = stacked(np.array([[0.5, 1.25, 2.0], [9.0, -5.0, 3.0]]))
    assert inside == pytest.approx([6 + 5 + 2, -13])
    assert beyond == pytest.approx([15, -15])
    # One layer only, and a place between its points.
    assert StackedFields([field[:1]], np.eye(4))(np.array([[0.7, 0.5, 0.0]]))[0] == pytest.approx([2.0])
