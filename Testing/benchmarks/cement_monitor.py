"""Simulated study of the spread monitor: leaks found, false alarms and volume error on synthetic patients.

Each seed is another synthetic patient with exact anatomy; cement fills the ala from its deepest point and, in the cases
with a leak, from 1 mL on 40 % of the flow goes out by one route. Frames have quantum noise and the C-arm's true pose
differs from the one that the monitor is told. There is no scatter, no lag, no movement and no segmentation error, so
these are upper bounds of what a real C-arm would give. Run: python Testing/benchmarks/cement_monitor.py [PATIENTS]
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, replace

import numpy as np

from sacroplasty.anatomy.model import Anatomy
from sacroplasty.cement.grid import sample
from sacroplasty.cement.monitor import Frame, SpreadMonitor
from sacroplasty.cement.zones import Zones, cancellous_bone, make_zones
from sacroplasty.errors import PlanError
from sacroplasty.geometry import rigid, rotation_about
from sacroplasty.image import Volume
from sacroplasty.phantom.make import Phantom, make_phantom
from sacroplasty.simulation.invasion import Filling, fill_from, resistance_from_hu
from sacroplasty.xray.detector import automatic_air_level, expose
from sacroplasty.xray.geometry import CArm, XrayGeometry
from sacroplasty.xray.project import CEMENT_PER_MM, attenuation_from_hu, line_integrals

VIEWS = ("outlet", "lateral")
PIXELS = 256
PHOTONS = 1000.0
LEAK_FROM_ML, LEAK_SHARE, LARGEST_LEAK_ML = 1.0, 0.4, 0.6
LARGEST_VOLUME_ML, STEP_ML = 3.5, 0.05
POSE_SD_MM, POSE_SD_DEG, TIP_SD_MM = 0.4, 0.2, 0.7


@dataclass
class Scene:
    """One ala of one patient under a C-arm."""

    anatomy: Anatomy
    side: str
    tip: np.ndarray
    invasion: Filling
    zones: Zones
    nominal: dict[str, XrayGeometry]
    true: dict[str, XrayGeometry]
    body: dict[str, np.ndarray]
    air: dict[str, float]
    rng: np.random.Generator

    def frame(self, view: str, cement: Volume | None, now_s: float) -> Frame:
        total = self.body[view] + (0 if cement is None else line_integrals(cement, self.true[view]))
        pixels = expose(total, self.rng, air_level=self.air[view], photons_per_pixel=PHOTONS, blur_pixels=0.4)
        return Frame(pixels, now_s, self.nominal[view])

    def monitor(self) -> SpreadMonitor:
        seen_tip = self.tip + self.rng.normal(0, TIP_SD_MM, 3)
        monitor = SpreadMonitor(make_zones(self.anatomy, seen_tip, (self.side,)), seen_tip)
        for view in VIEWS:
            monitor.set_reference(view, [self.frame(view, None, 0.0) for _ in range(8)])
        return monitor


def make_scene(phantom: Phantom, side: str, seed: int) -> Scene:
    from scipy.ndimage import distance_transform_edt

    rng = np.random.default_rng(seed)
    anatomy = Anatomy(
        phantom.bones, phantom.regions, phantom.foramina, {}, phantom.SacrumToRAS, {}, (), "truth", "0" * 64
    )
    ala = anatomy.region(f"ala_{side}")
    depth = distance_transform_edt(np.pad(ala, 1), sampling=phantom.ct.spacing_mm[::-1])[1:-1, 1:-1, 1:-1]
    tip = phantom.ct.ras_of(np.argwhere(depth == depth.max()))[0] + rng.normal(0, 1.5, 3)
    region = cancellous_bone(anatomy, tip)
    resistance = region.like(
        resistance_from_hu(sample(phantom.ct, region)) * rng.uniform(0.7, 1.4, region.voxels.shape).astype(np.float32)
    )
    attenuation = phantom.ct.like(attenuation_from_hu(phantom.ct.voxels))
    error = rigid(rotation_about(rng.normal(size=3), rng.normal(0, POSE_SD_DEG)), rng.normal(0, POSE_SD_MM, 3))
    error[:3, 3] += tip - error[:3, :3] @ tip
    nominal = {view: CArm().view(view, phantom.SacrumToRAS).resampled(PIXELS) for view in VIEWS}
    true = {view: replace(pose, RASToDetector=pose.RASToDetector @ error) for view, pose in nominal.items()}
    body = {view: line_integrals(attenuation, pose) for view, pose in true.items()}
    return Scene(
        anatomy=anatomy,
        side=side,
        tip=tip,
        invasion=fill_from(tip, region, resistance),
        zones=make_zones(anatomy, tip, (side,), half_size_mm=30.0, spacing_mm=1.0),
        nominal=nominal,
        true=true,
        body=body,
        air={view: automatic_air_level(image) for view, image in body.items()},
        rng=rng,
    )


def leak_path(scene: Scene, route: str) -> np.ndarray | None:
    """Voxels (n, 3) of a leak by this route in the order of filling: a blob that grows where cement comes nearest."""
    from scipy.ndimage import distance_transform_edt

    if route not in scene.zones.names:
        return None
    place = np.argwhere(scene.zones.mask(route))
    if len(place) < 1000 * LARGEST_LEAK_ML:
        return None
    to_cement = distance_transform_edt(scene.invasion.at(LEAK_FROM_ML).voxels <= 0)[tuple(place.T)]
    start = place[np.argmin(to_cement)]
    return place[np.argsort(np.linalg.norm(place - start, axis=1), kind="stable")]


@dataclass
class Result:
    route: str | None
    named: str | None
    leaked_ml: float
    volume_ml: float
    error: float
    update_ms: float


def run(scene: Scene, route: str | None) -> Result | None:
    """Inject until the monitor stops the pump or the end; None when the case cannot be built."""
    path = None if route is None else leak_path(scene, route)
    if route is not None and path is None:
        return None
    monitor = scene.monitor()
    leaked, spent, errors = 0.0, [], []
    for number, volume in enumerate(np.arange(STEP_ML, LARGEST_VOLUME_ML + STEP_ML / 2, STEP_ML)):
        now_s = 0.2 * (number + 1)
        if path is not None and volume > LEAK_FROM_ML:
            leaked += LEAK_SHARE * STEP_ML
        if leaked > LARGEST_LEAK_ML:
            break
        cement = scene.invasion.at(volume - leaked)
        if path is not None:
            cement.voxels[tuple(path[: round(leaked * 1000)].T)] = 1.0
        attenuation = cement.like(cement.voxels * np.float32(CEMENT_PER_MM))
        frames = {view: scene.frame(view, attenuation, now_s) for view in VIEWS}
        began = time.perf_counter()
        reading = monitor.update(frames, now_s)
        spent.append(1000 * (time.perf_counter() - began))
        if volume >= 1.0:
            errors.append(reading.volume_ml / volume - 1)
        if reading.leak:
            named = next(event.route for event in reading.events if event.level == "leak")
            return Result(route, named, leaked, float(volume), float(np.median(errors or [0])), float(np.median(spent)))
    return Result(route, None, leaked, float(volume), float(np.median(errors)), float(np.median(spent)))


def main() -> None:
    patients = int(sys.argv[1]) if len(sys.argv) > 1 else 6
    results: list[Result] = []
    for seed in range(patients):
        phantom = make_phantom(seed, spacing_mm=(1.2, 1.2, 2.0))
        for side in ("left", "right"):
            try:
                scene = make_scene(phantom, side, 100 * seed + len(side))
            except PlanError as error:
                print(f"seed {seed} {side}: {error}")
                continue
            places = ["foramen_s1", "foramen_s2", "si_joint"]
            routes = [f"{name}_{side}" for name in places] + ["sacral_canal", "presacral", "posterior"]
            for route in [None, *routes]:
                result = run(scene, route)
                if result is not None:
                    results.append(result)
    print(f"{patients} synthetic patients, views {' + '.join(VIEWS)}, {PIXELS} pixels, {PHOTONS:.0f} quanta per pixel")
    print(f"{'route':<14}{'cases':>6}{'found':>7}{'<=0.1 mL':>10}{'named':>7}{'median leaked mL':>18}")
    for kind in ("foramen_s1", "foramen_s2", "si_joint", "sacral_canal", "presacral", "posterior"):
        cases = [one for one in results if one.route is not None and one.route.startswith(kind)]
        # An alarm before the leak has begun is a false one, not a detection.
        found = [one for one in cases if one.named and one.leaked_ml > 0]
        early = [one for one in found if one.leaked_ml <= 0.1 + 1e-9]
        named = [one for one in found if one.named == one.route]
        median = float(np.median([one.leaked_ml for one in found])) if found else float("nan")
        print(f"{kind:<14}{len(cases):>6}{len(found):>7}{len(early):>10}{len(named):>7}{median:>18.3f}")
    sound = [one for one in results if one.route is None]
    false = [one for one in sound if one.named]
    print(f"injections of {LARGEST_VOLUME_ML} mL without a leak: {len(sound)}, stopped falsely: {len(false)}", end="")
    print("".join(f" ({one.named} at {one.volume_ml:.2f} mL)" for one in false))
    errors = np.abs([one.error for one in results])
    print(f"volume error from 1 mL on: median {100 * np.median(errors):.1f} %, worst case {100 * errors.max():.1f} %")
    print(f"time for one update of both views: median {np.median([one.update_ms for one in results]):.0f} ms")


if __name__ == "__main__":
    main()
