"""A planned sacrum under two live views in which cement grows: a case whose spread is really watched."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np

from cement_scene import sphere_line_integrals
from sacroplasty.anatomy.labels import BONE_LABEL, REGION_LABEL
from sacroplasty.anatomy.model import Anatomy, Foramen, Opening
from sacroplasty.devices.fluoroscope import PLANES, Frame, View
from sacroplasty.geometry import transform_points
from sacroplasty.image import Volume
from sacroplasty.planning.model import Depot, Plan, Trajectory
from sacroplasty.planning.needles import needle
from sacroplasty.scene import anatomy, nodes, planning
from sacroplasty.xray.geometry import CArm
from sacroplasty.xray.objects import Tube, object_line_integrals
from sacroplasty.xray.project import attenuation_from_hu, line_integrals
from simple_sacrum import LEVELS, USUAL_SACRUM_TO_RAS, SimpleSacrum, simple_sacrum

PERIOD_S = 0.2
VIEWS = ("outlet", "lateral")
#: Where cement leaves the trocar, its skin entry, and a foramen beside it, in the sacrum's axes (left, posterior,
#: superior).
TIP = transform_points(USUAL_SACRUM_TO_RAS, [38.0, 8.0, -28.0])
HUB = transform_points(USUAL_SACRUM_TO_RAS, [45.0, 60.0, -35.0])
FORAMEN = transform_points(USUAL_SACRUM_TO_RAS, [21.0, 8.0, -28.0])


@cache
def sacrum() -> tuple[SimpleSacrum, Anatomy]:
    """The sacrum with the regions that it was made of."""
    case = simple_sacrum(2.0, SacrumToRAS=USUAL_SACRUM_TO_RAS)
    grid = case.ct
    points = grid.ras_of(np.moveaxis(np.indices(grid.voxels.shape), 0, -1))
    x, _, z = np.moveaxis(transform_points(np.linalg.inv(USUAL_SACRUM_TO_RAS), points), -1, 0)
    regions = np.zeros(grid.voxels.shape, np.uint8)
    regions[case.canal] = REGION_LABEL["sacral_canal"]
    bone = case.bones.voxels == BONE_LABEL["sacrum"]
    for side, sign in (("left", 1.0), ("right", -1.0)):
        regions[bone & (sign * x > 27) & (z > -60)] = REGION_LABEL[f"ala_{side}"]
        for level, (height, _, _) in LEVELS.items():
            here = case.foramina & (sign * x > 0) & (np.abs(z - height) < 9)
            regions[here] = REGION_LABEL[f"foramen_{level}_{side}"]
    foramina = {
        f"foramen_{level}_{side}": _foramen(case, level, side) for level in LEVELS for side in ("left", "right")
    }
    found = Anatomy(
        case.bones, case.ct.like(regions), foramina, {}, USUAL_SACRUM_TO_RAS, {}, (), "truth", case.ct.content_hash()
    )
    return case, found


def _foramen(case: SimpleSacrum, level: str, side: str) -> Foramen:
    radius = LEVELS[level][2]
    front, back = (case.opening(level, side, which) for which in ("anterior", "posterior"))
    forwards = USUAL_SACRUM_TO_RAS[:3, :3] @ np.array([0.0, -1.0, 0.0])
    openings = (
        Opening(center, normal, 2 * radius, 2 * radius) for center, normal in ((front, forwards), (back, -forwards))
    )
    return Foramen(*openings, back)


@cache
def body(pixels: int) -> dict[str, tuple[object, np.ndarray]]:
    """Geometry and line integrals of the patient, by view."""
    case, _ = sacrum()
    attenuation: Volume = case.ct.like(attenuation_from_hu(case.ct.voxels))
    poses = {view: CArm().view(view, USUAL_SACRUM_TO_RAS).resampled(pixels) for view in VIEWS}
    return {view: (pose, line_integrals(attenuation, pose)) for view, pose in poses.items()}


def show_case(scene) -> None:
    """CT, segmentation and a plan for the left ala."""
    case, found = sacrum()
    ct_node = nodes.add_volume(scene, case.ct, "CT")
    anatomy.show_anatomy(scene, found, ct_node)
    planned = Trajectory(
        side="left",
        technique="short-axis",
        entry_skin=HUB,
        entry_bone=TIP + 0.5 * (HUB - TIP),
        target=TIP,
        needle=needle(11),
        length_mm=float(np.linalg.norm(HUB - TIP)),
        clearance_mm={"sacral_canal": 20.0},
        accepted=True,
        reasons=(),
        depots=(Depot(TIP, 4.0),),
    )
    planning.show_plan(scene, Plan((planned,), case.ct.content_hash()))


class LiveViews:
    """A fluoroscope, as far as the monitor needs one.

    Attributes:
        cement: centers (RAS) and volumes of spheres [mL].
        views: names of `VIEWS` that are sent.
        posed: whether frames carry their geometry.
        still: whether the same frame comes again and again.
        scatter: counts of a pixel that are scatter; few beside the beam.
        trocar: whether a trocar, its stylet drawn, stands in the picture from `TIP` to `HUB`.
    """

    def __init__(self, pixels: int = 256, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.cement: list[tuple[np.ndarray, float]] = []
        self.views: tuple[str, ...] = VIEWS
        self.posed, self.still, self.trocar = True, False, False
        self.scatter = 0.0
        self._pixels = pixels
        self._next_s = -np.inf
        self._last: dict[str, np.ndarray] = {}
        self.fluoroscope = SimpleNamespace(view=lambda plane, now_s: View(None, 0.0, True, ""))

    def frames(self, now_s: float) -> list[Frame]:
        """What came since the call before."""
        if now_s + 1e-9 < self._next_s:
            return []
        self._next_s = now_s + PERIOD_S
        taken = []
        for plane, view in zip(PLANES, VIEWS, strict=True):
            if view not in self.views:
                continue
            pose, total = body(self._pixels)[view]
            if self.trocar:
                total = total + object_line_integrals([Tube(TIP, HUB, 3.05, 2.39)], pose)
            if not self.still:
                for center, volume_ml in self.cement:
                    total = total + sphere_line_integrals(pose, center, volume_ml)
                counts = self.rng.poisson(4e4 * np.exp(-total) + self.scatter) * 4
                self._last[view] = np.clip(counts, 0, 65535).astype(np.uint16)
            record = pose.to_dict() if self.posed else None
            taken.append(Frame(plane, self._last[view], record, None, 1 / PERIOD_S, None, now_s, now_s))
        return taken

    def newest(self) -> list[np.ndarray]:
        """Pixels of the last frame of each view."""
        return list(self._last.values())
