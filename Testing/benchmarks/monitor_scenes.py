"""Simulated scenes for the spread monitor: patients with cement in one ala, and what a C-arm shows of them.

Each scene is one side of another synthetic patient, with the tip where a technique puts it. Where cement is comes from
the phantom's true labels, never from the monitor's zones. Frames pass a C-arm's imaging chain with scatter, blur, lag
and automatic exposure; the patient breathes; the C-arm's pose, the segmentation's place and the tip are told wrongly by
the usual errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from monitor_tips import ALA, Aim, deepest_tip, leaves_bone, way_out
from numpy.typing import NDArray
from scipy import ndimage

from sacroplasty.anatomy.labels import BONE_LABEL, REGION_LABEL
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.cement.cannula import Cannula
from sacroplasty.cement.grid import local_grid, sample
from sacroplasty.cement.monitor import Frame, MonitorSettings, SpreadMonitor
from sacroplasty.cement.visibility import DarkViewError
from sacroplasty.cement.zones import cancellous_bone, make_zones
from sacroplasty.errors import ImageError
from sacroplasty.geometry import rigid, rotation_about, transform_points
from sacroplasty.image import Volume
from sacroplasty.phantom.make import Phantom
from sacroplasty.simulation.invasion import Filling, fill_from, resistance_from_hu
from sacroplasty.xray.geometry import CArm, XrayGeometry
from sacroplasty.xray.imaging_chain import ExposedFrame, ImagingChain, expose_frame
from sacroplasty.xray.project import CEMENT_PER_MM, ProjectableVolume, attenuation_from_hu, line_integrals

#: What is taken first; a view that the monitor calls too dark is taken from elsewhere.
VIEWS = ("outlet", "lateral")
ROUTES = ("foramen_s1", "foramen_s2", "sacral_canal", "si_joint", "presacral", "posterior", "venous")
FRAME_S = 1 / 7.5
#: A breath's time.
REFERENCE_FRAMES = 30
#: A reference that is refused is taken again, so often in all.
REFERENCES_TRIED = 3
#: Fluoroscopy of high dose.
RAISED_DOSE = 4.0
CHAIN = ImagingChain(photons_per_pixel=600.0, scatter_fraction=0.3, penumbra_mm=0.4, blur_mm=0.3, lag=0.15)
POSE_SD_MM, POSE_SD_DEG, TIP_SD_MM = 0.4, 0.2, 0.7
BREATHING_MM, BREATHING_S = 1.5, 4.0
GRID_MM = 1.0


@dataclass
class Scene:
    """One side of one patient under a C-arm, and what the monitor is told of it.

    Attributes:
        pose_error: rigid 4x4, from where the patient truly lies to where the monitor is told.
        nominal, true, body: by view the pose that is told and the true one, and what its rays cross.
    """

    phantom: Phantom
    anatomy: Anatomy
    seed: int
    side: str
    tip: NDArray
    entry: NDArray
    filling: Filling
    cannula: Cannula
    monitor: SpreadMonitor
    attenuation: ProjectableVolume
    pixels: int
    pose_error: NDArray
    rng: np.random.Generator
    nominal: dict[str, XrayGeometry] = field(default_factory=dict)
    true: dict[str, XrayGeometry] = field(default_factory=dict)
    body: dict[str, NDArray] = field(default_factory=dict)

    @property
    def views(self) -> tuple[str, ...]:
        return tuple(self.nominal)

    def take_view(self, name: str, in_place_of: str = "") -> None:
        """Move the C-arm to one more view, or to another."""
        for kept in (self.nominal, self.true, self.body):
            kept.pop(in_place_of, None)
        self.nominal[name] = CArm().view(name, self.phantom.SacrumToRAS).resampled(self.pixels)
        pose = self.nominal[name]
        self.true[name] = replace(pose, RASToDetector=pose.RASToDetector @ self.pose_error)
        self.body[name] = line_integrals(self.attenuation, self.true[name])


class Fluoroscope:
    """Frames of all views, one after the other."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._rng = scene.rng
        self._phase = self._rng.uniform(0, 2 * np.pi)
        self._amplitude = {view: self._breath() for view in scene.views}
        self._flicker_from = self._rng.uniform(5, 60)
        self._dose = float(self._rng.choice([0.7, 1.0, 1.4]))
        self._last: dict[str, ExposedFrame] = {}
        self._raised = 1.0

    def raise_dose(self) -> bool:
        """Whether there was more dose to be had."""
        raised, self._raised = self._raised, RAISED_DOSE
        return raised < RAISED_DOSE

    def _breath(self) -> NDArray:
        """Amplitude of the patient's movement in a view [mm]."""
        return self._rng.normal(0, BREATHING_MM / 2, 2)

    def frames(self, cement: Volume | None, now_s: float) -> dict[str, Frame]:
        taken = {}
        for view in self._scene.views:
            if view not in self._amplitude:
                self._amplitude[view] = self._breath()
            pose = self._scene.true[view]
            total = self._scene.body[view]
            if cement is not None:
                total = total + line_integrals(cement, pose)
            breath = np.sin(2 * np.pi * now_s / BREATHING_S + self._phase)
            shift = self._amplitude[view] * breath * 1.6 / pose.pixel_spacing_mm[0]
            total = ndimage.shift(total, shift, order=3, mode="nearest")
            dose = self._raised * (self._dose if now_s > self._flicker_from else 1.0)
            chain = replace(CHAIN, photons_per_pixel=CHAIN.photons_per_pixel * dose * self._rng.normal(1, 0.02))
            exposed = expose_frame(total, pose, chain, self._rng, self._last.get(view))
            self._last[view] = exposed
            taken[view] = Frame(exposed.pixels, now_s, self._scene.nominal[view])
        return taken


def make_scene(
    phantom: Phantom, seed: int, side: str, pixels: int, aim: Aim = ALA, views: Sequence[str] = VIEWS
) -> Scene:
    rng = np.random.default_rng([seed, 9, side == "left"])
    anatomy = Anatomy(
        phantom.bones, phantom.regions, phantom.foramina, {}, phantom.SacrumToRAS, {}, (), "truth", "0" * 64
    )
    tip = deepest_tip(phantom, side, aim) + rng.normal(0, 1.5, 3)
    outwards = way_out(phantom, tip, side)
    region = cancellous_bone(anatomy, tip)
    resistance = region.like(
        resistance_from_hu(sample(phantom.ct, region)) * rng.uniform(0.7, 1.4, region.voxels.shape).astype(np.float32)
    )
    attenuation = ProjectableVolume.of(phantom.ct.like(attenuation_from_hu(phantom.ct.voxels)))
    error = rigid(rotation_about(rng.normal(size=3), rng.normal(0, POSE_SD_DEG)), rng.normal(0, POSE_SD_MM, 3))
    error[:3, 3] += tip - error[:3, :3] @ tip
    seen_tip = tip + rng.normal(0, TIP_SD_MM, 3)
    # Told, though it does not stand in the pictures: what lies behind it has to stand out further.
    cannula = Cannula(seen_tip, outwards, outer_diameter_mm=3.05)
    settings = MonitorSettings(frame_period_s=FRAME_S)
    zones = make_zones(anatomy, seen_tip, (side,), technique=aim.technique, cannula=cannula)
    monitor = SpreadMonitor(zones, seen_tip, settings, cannula, attenuation)
    scene = Scene(
        phantom=phantom,
        anatomy=anatomy,
        seed=seed,
        side=side,
        tip=tip,
        entry=leaves_bone(phantom, tip, outwards),
        filling=fill_from(tip, region, resistance),
        cannula=cannula,
        monitor=monitor,
        attenuation=attenuation,
        pixels=pixels,
        pose_error=error,
        rng=rng,
    )
    for view in views:
        scene.take_view(view)
    return scene


def learn_views(scene: Scene, camera: Fluoroscope) -> None:
    """Take the reference until the monitor has learned both views; where it calls one too dark, the person takes the
    one that it proposes, and raises the dose where that is too dark as well or there is none.

    Raises:
        ImageError: when it refused it each time.
    """
    tried = set(scene.views)
    for left in reversed(range(REFERENCES_TRIED)):
        first = -(left + 1) * REFERENCE_FRAMES
        before = [camera.frames(None, FRAME_S * (first + number)) for number in range(REFERENCE_FRAMES)]
        # What is proposed in place of a view depends on those that are not dark, so these are learned first.
        dark: list[str] = []
        try:
            for view in scene.views:
                try:
                    scene.monitor.set_reference(view, [frames[view] for frames in before])
                except DarkViewError:
                    dark.append(view)
            for view in dark:
                scene.monitor.set_reference(view, [frames[view] for frames in before])
            return
        except ImageError as error:
            if not left:
                raise
            if isinstance(error, DarkViewError):
                if error.instead and error.instead not in tried:
                    tried.add(error.instead)
                    scene.take_view(error.instead, dark[0])
                elif not camera.raise_dose():
                    raise


def leak_path(scene: Scene, route: str, onset_ml: float) -> NDArray | None:
    """RAS points (n, 3) of a leak's cubic millimetres in the order of filling; None when there is no room for one near
    the cement."""
    phantom, side = scene.phantom, scene.side
    grid = local_grid(scene.tip, 45.0, GRID_MM)
    bones = sample(phantom.bones, grid, nearest=True)
    regions = sample(phantom.regions, grid, nearest=True)
    sacrum, hip = bones == BONE_LABEL["sacrum"], bones == BONE_LABEL[f"hip_{side}"]
    nerves = np.isin(regions, [value for name, value in REGION_LABEL.items() if "foramen" in name or "canal" in name])
    points = grid.ras_of(np.moveaxis(np.indices(grid.voxels.shape), 0, -1))
    in_sacrum = transform_points(np.linalg.inv(phantom.SacrumToRAS), points)
    from_sacrum, nearest = ndimage.distance_transform_edt(~sacrum, return_indices=True)
    outside = ~sacrum & ~hip & ~nerves
    way = in_sacrum - in_sacrum[tuple(nearest)]
    if route in ("foramen_s1", "foramen_s2"):
        place = regions == REGION_LABEL[f"{route}_{side}"]
    elif route == "sacral_canal":
        place = regions == REGION_LABEL["sacral_canal"]
    elif route == "si_joint":
        from_hip = ndimage.distance_transform_edt(~hip)
        place = outside & (from_sacrum <= 3.5) & (from_hip <= 3.5)
    elif route == "presacral":
        place = outside & (way[..., 1] < -np.abs(way[..., 2])) & (way[..., 1] < -np.abs(way[..., 0]))
    elif route == "posterior":
        place = outside & (np.linalg.norm(points - scene.entry, axis=-1) < 15) & (way[..., 1] > 0)
    else:
        return _vein(scene, sacrum, grid)
    voxels = np.argwhere(place)
    if len(voxels) < 600:
        return None
    if route == "posterior":
        start = voxels[np.argmin(np.linalg.norm(points[place] - scene.entry, axis=1))]
    else:
        cement = sample(scene.filling.at(onset_ml), grid) > 0
        reach = ndimage.distance_transform_edt(~cement)[place]
        if reach.min() > 12:
            return None
        # Any of the near places, not always the nearest.
        near = np.flatnonzero(reach <= reach.min() + 3)
        start = voxels[scene.rng.choice(near)]
    # A blob, but one that follows its space: geodesic within the place.
    order = _geodesic_order(place, tuple(start))
    return grid.ras_of(order)


def _geodesic_order(place: NDArray, start: tuple[int, ...]) -> NDArray:
    """Voxels of the place by their distance from the start along the place."""
    reached = np.full(place.shape, np.inf)
    front = np.zeros(place.shape, bool)
    front[start] = True
    reached[start] = 0
    ball, cross = ndimage.generate_binary_structure(3, 2), ndimage.generate_binary_structure(3, 1)
    for step in range(1, 60):
        grown = ndimage.binary_dilation(front, ball if step % 2 else cross) & place
        reached[grown & ~front] = step
        if np.count_nonzero(grown) > 1500:
            break
        front = grown
    voxels = np.argwhere(np.isfinite(reached))
    exact = np.linalg.norm(voxels - np.array(start), axis=1)
    return voxels[np.lexsort((exact, reached[tuple(voxels.T)]))]


def _vein(scene: Scene, sacrum: NDArray, grid: Volume) -> NDArray | None:
    """A vein of 2.5 mm that leaves the bone in front and runs on through the pelvis in gentle bends."""
    anterior = -scene.phantom.SacrumToRAS[:3, 1]
    surface = sacrum & ndimage.binary_dilation(~sacrum)
    cement = sample(scene.filling.at(1.0), grid) > 0
    distance = ndimage.distance_transform_edt(~cement)
    candidates = np.argwhere(surface & (distance < 10))
    if not len(candidates):
        return None
    at = grid.ras_of(candidates)
    front = at @ anterior
    chosen = at[np.argsort(-front)[: max(len(at) // 10, 1)]]
    place = chosen[scene.rng.integers(len(chosen))]
    direction = anterior + scene.rng.normal(0, 0.4, 3)
    path = [place]
    for _ in range(120):
        direction = direction / np.linalg.norm(direction) + scene.rng.normal(0, 0.12, 3)
        path.append(path[-1] + direction / np.linalg.norm(direction))
    # Cubic millimetres along the vessel, its section filled before it goes on.
    section = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if abs(a) + abs(b) < 2]
    filled = [point + np.array([a, b, 0.0]) for point in path for a, b in section]
    return np.array(filled)


def cement_attenuation(scene: Scene, good_ml: float, path: NDArray, leaked_ml: float) -> Volume:
    """Attenuation of all cement; a leak fills whole cubic millimetres and a part of the last one."""
    cement = scene.filling.at(good_ml)
    count = leaked_ml * 1000 / GRID_MM**3
    if count > 0:
        wide = local_grid(scene.tip, 60.0, GRID_MM)
        voxels = sample(cement, wide)
        kji = np.rint(wide.kji_of(path[: int(np.ceil(count))])).astype(int)
        kji = kji[((kji >= 0) & (kji < voxels.shape[0])).all(axis=1)]
        voxels[tuple(kji.T)] = 1.0
        cement = wide.like(voxels)
    return cement.like(cement.voxels * np.float32(CEMENT_PER_MM))
