"""Simulated study of the spread monitor: leaks of 0.02 to 0.5 mL on every route, and injections without one.

Each case is one ala of another synthetic patient. Cement fills the bone from the tip; from some volume on a share of
the flow goes out by one route until the leak has its size. Where it goes is taken from the phantom's true labels, never
from the monitor's zones. Frames pass a C-arm's imaging chain with scatter, blur, lag and automatic exposure; the
patient breathes; the C-arm's pose, the segmentation's place and the tip are told wrongly by the usual errors. The
monitor sees frames, nominal geometry, anatomy and the pump's volume, at 7.5 frames a second while the leak runs.

Run: python Testing/benchmarks/monitor_study.py [--patients N] [--first SEED] [--pixels N] [--sound] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from sacroplasty.anatomy.labels import BONE_LABEL, REGION_LABEL
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.cement.grid import local_grid, sample
from sacroplasty.cement.monitor import Frame, MonitorSettings, SpreadMonitor
from sacroplasty.cement.zones import cancellous_bone, make_zones
from sacroplasty.errors import PlanError
from sacroplasty.geometry import rigid, rotation_about, transform_points
from sacroplasty.image import Volume
from sacroplasty.phantom.make import Phantom, make_phantom
from sacroplasty.simulation.invasion import Filling, fill_from, resistance_from_hu
from sacroplasty.xray.geometry import CArm, XrayGeometry
from sacroplasty.xray.imaging_chain import ExposedFrame, ImagingChain, expose_frame
from sacroplasty.xray.project import CEMENT_PER_MM, attenuation_from_hu, line_integrals

VIEWS = ("outlet", "lateral")
ROUTES = ("foramen_s1", "foramen_s2", "sacral_canal", "si_joint", "presacral", "posterior", "venous")
FRAME_S = 1 / 7.5
FLOW_ML_S = 0.05
LARGEST_ML = 3.5
CHAIN = ImagingChain(photons_per_pixel=600.0, scatter_fraction=0.3, penumbra_mm=0.4, blur_mm=0.3, lag=0.15)
POSE_SD_MM, POSE_SD_DEG, TIP_SD_MM = 0.4, 0.2, 0.7
BREATHING_MM, BREATHING_S = 1.5, 4.0
GRID_MM = 1.0


@dataclass
class Scene:
    """One ala of one patient under a C-arm, and what the monitor is told of it."""

    phantom: Phantom
    seed: int
    side: str
    tip: NDArray
    entry: NDArray
    filling: Filling
    monitor: SpreadMonitor
    nominal: dict[str, XrayGeometry]
    true: dict[str, XrayGeometry]
    body: dict[str, NDArray]
    rng: np.random.Generator


class Fluoroscope:
    """Frames of all views, one after the other."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._rng = scene.rng
        self._phase = self._rng.uniform(0, 2 * np.pi)
        self._amplitude = {view: self._rng.normal(0, BREATHING_MM / 2, 2) for view in VIEWS}
        self._flicker_from = self._rng.uniform(5, 60)
        self._dose = float(self._rng.choice([0.7, 1.0, 1.4]))
        self._last: dict[str, ExposedFrame] = {}

    def frames(self, cement: Volume | None, now_s: float) -> dict[str, Frame]:
        taken = {}
        for view in VIEWS:
            pose = self._scene.true[view]
            total = self._scene.body[view]
            if cement is not None:
                total = total + line_integrals(cement, pose)
            breath = np.sin(2 * np.pi * now_s / BREATHING_S + self._phase)
            shift = self._amplitude[view] * breath * 1.6 / pose.pixel_spacing_mm[0]
            total = ndimage.shift(total, shift, order=3, mode="nearest")
            dose = self._dose if now_s > self._flicker_from else 1.0
            chain = replace(CHAIN, photons_per_pixel=CHAIN.photons_per_pixel * dose * self._rng.normal(1, 0.02))
            exposed = expose_frame(total, pose, chain, self._rng, self._last.get(view))
            self._last[view] = exposed
            taken[view] = Frame(exposed.pixels, now_s, self._scene.nominal[view])
        return taken


def make_scene(phantom: Phantom, seed: int, side: str, pixels: int) -> Scene:
    rng = np.random.default_rng([seed, 9, side == "left"])
    anatomy = Anatomy(
        phantom.bones, phantom.regions, phantom.foramina, {}, phantom.SacrumToRAS, {}, (), "truth", "0" * 64
    )
    ala = anatomy.region(f"ala_{side}")
    depth = ndimage.distance_transform_edt(np.pad(ala, 1), sampling=phantom.ct.spacing_mm[::-1])[1:-1, 1:-1, 1:-1]
    tip = phantom.ct.ras_of(np.argwhere(depth == depth.max()))[0] + rng.normal(0, 1.5, 3)
    outwards = phantom.SacrumToRAS[:3, 1] + (0.35 if side == "left" else -0.35) * phantom.SacrumToRAS[:3, 0]
    region = cancellous_bone(anatomy, tip)
    resistance = region.like(
        resistance_from_hu(sample(phantom.ct, region)) * rng.uniform(0.7, 1.4, region.voxels.shape).astype(np.float32)
    )
    attenuation = phantom.ct.like(attenuation_from_hu(phantom.ct.voxels))
    error = rigid(rotation_about(rng.normal(size=3), rng.normal(0, POSE_SD_DEG)), rng.normal(0, POSE_SD_MM, 3))
    error[:3, 3] += tip - error[:3, :3] @ tip
    nominal = {view: CArm().view(view, phantom.SacrumToRAS).resampled(pixels) for view in VIEWS}
    true = {view: replace(pose, RASToDetector=pose.RASToDetector @ error) for view, pose in nominal.items()}
    seen_tip = tip + rng.normal(0, TIP_SD_MM, 3)
    monitor = SpreadMonitor(make_zones(anatomy, seen_tip, (side,)), seen_tip, MonitorSettings(frame_period_s=FRAME_S))
    return Scene(
        phantom=phantom,
        seed=seed,
        side=side,
        tip=tip,
        entry=_entry(anatomy, tip, outwards / np.linalg.norm(outwards)),
        filling=fill_from(tip, region, resistance),
        monitor=monitor,
        nominal=nominal,
        true=true,
        body={view: line_integrals(attenuation, pose) for view, pose in true.items()},
        rng=rng,
    )


def _entry(anatomy: Anatomy, tip: NDArray, outwards: NDArray) -> NDArray:
    """Where the trocar's axis leaves the bone."""
    along = tip + np.arange(0, 80, 0.5)[:, None] * outwards
    kji = np.rint(anatomy.bones.kji_of(along)).astype(int)
    inside = anatomy.bones.voxels[tuple(np.clip(kji, 0, np.array(anatomy.bones.voxels.shape) - 1).T)] > 0
    return along[np.flatnonzero(inside)[-1]]


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


@dataclass
class Case:
    """One injection: where it leaks to, how much, what share of the flow, and after how much good cement."""

    route: str
    size_ml: float
    share: float
    onset_ml: float


@dataclass
class Result:
    """What became of a case.

    Attributes:
        stopped_by: `leak`, `blind`, or nothing.
        named: the route or the health that the monitor gave for it.
        leaked_ml: what was out then, or at the end.
        frames_after_tenth: frames between 0.1 mL outside and the stop; None when the stop came before, or not at all.
    """

    seed: int
    side: str
    route: str
    size_ml: float
    stopped_by: str
    named: str
    given_ml: float
    leaked_ml: float
    frames_after_tenth: int | None
    volume_errors: list[float]
    one_view_errors: list[float]
    update_ms: float

    @property
    def found(self) -> bool:
        """Whether the leak was seen after it had begun."""
        return self.stopped_by == "leak" and self.leaked_ml > 0


def run(scene: Scene, case: Case) -> Result | None:
    """Inject until the monitor stops the pump or the end; None when the patient has no such place."""
    path = leak_path(scene, case.route, case.onset_ml) if case.route else np.empty((0, 3))
    if path is None:
        return None
    camera, monitor = Fluoroscope(scene), scene.monitor
    before = [camera.frames(None, FRAME_S * (number - 14)) for number in range(12)][4:]
    for view in VIEWS:
        monitor.set_reference(view, [frames[view] for frames in before])
    given, leaked, tenth_at, frames_left = 0.0, 0.0, None, 8
    errors: list[float] = []
    one_view: list[float] = []
    spent: list[float] = []
    stop = None
    for number in range(1, 2000):
        leaking = bool(case.route) and given >= case.onset_ml
        # Frame by frame while it leaks; in between a frame for each 0.07 mL saves time.
        step_ml = FLOW_ML_S * FRAME_S * (1 if leaking else 10)
        given += step_ml
        if leaking:
            leaked = min(leaked + case.share * step_ml, case.size_ml)
        frames = camera.frames(_cement(scene, given - leaked, path, leaked), number * FRAME_S)
        began = time.perf_counter()
        reading = monitor.update(frames, number * FRAME_S, given)
        spent.append(1000 * (time.perf_counter() - began))
        if leaked >= 0.1 - 1e-9 and tenth_at is None:
            tenth_at = number
        if given >= 1.0 and reading.healthy:
            errors.append(reading.volume_ml / given - 1)
            one_view += [volume / given - 1 for volume in reading.per_view_volume_ml.values()]
        stop = next((event for event in reading.events if event.stop), None)
        frames_left -= leaking and leaked >= case.size_ml
        if stop is not None or given >= LARGEST_ML or frames_left == 0:
            break
    return Result(
        seed=scene.seed,
        side=scene.side,
        route=case.route,
        size_ml=case.size_ml,
        stopped_by="" if stop is None else stop.level,
        named="" if stop is None else stop.route,
        given_ml=given,
        leaked_ml=leaked,
        frames_after_tenth=number - tenth_at if stop is not None and tenth_at is not None else None,
        volume_errors=errors,
        one_view_errors=one_view,
        update_ms=float(np.median(spent)),
    )


def _cement(scene: Scene, good_ml: float, path: NDArray, leaked_ml: float) -> Volume:
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


def cases_of(seed: int, side: str) -> list[Case]:
    """A case of every route, sizes and onsets drawn, and one without a leak."""
    rng = np.random.default_rng([seed, 5, side == "left"])
    cases = [Case("", 0.0, 0.0, LARGEST_ML)]
    for route in ROUTES:
        size_ml = float(rng.choice([0.05, 0.1, 0.2, 0.3, 0.5]))
        cases.append(Case(route, size_ml, float(rng.uniform(0.3, 0.8)), float(rng.uniform(0.5, 2.5))))
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description="Leaks found by the spread monitor on synthetic patients.")
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--first", type=int, default=1000, help="seed of the first patient")
    parser.add_argument("--pixels", type=int, default=320)
    parser.add_argument("--json", help="file for all results")
    options = parser.parse_args()
    results: list[Result] = []
    for seed in range(options.first, options.first + options.patients):
        phantom = make_phantom(seed, spacing_mm=(1.2, 1.2, 2.0))
        for side in ("left", "right"):
            for case in cases_of(seed, side):
                try:
                    scene = make_scene(phantom, seed, side, options.pixels)
                except PlanError as error:
                    print(f"seed {seed} {side}: {error}")
                    break
                result = run(scene, case)
                if result is not None:
                    results.append(result)
                    print(
                        f"{seed} {side:5s} {case.route or 'sound':12s} size {case.size_ml:.2f} share {case.share:.1f} "
                        f"onset {case.onset_ml:.1f}: {result.stopped_by or '-':5s} {result.named:28s} "
                        f"leaked {result.leaked_ml:.3f} of {result.given_ml:.2f} mL, {result.update_ms:.0f} ms",
                        flush=True,
                    )
    _print_tables(results)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump([asdict(one) for one in results], file)


def _print_tables(results: list[Result]) -> None:
    print(f"\n{'route':<14}{'cases':>6}{'found':>7}{'>=0.1 mL':>10}{'found':>7}{'named':>7}{'median leaked mL':>18}")
    leaks = [one for one in results if one.route]
    for kind in (*ROUTES, ""):
        cases = [one for one in leaks if one.route == kind or not kind]
        found = [one for one in cases if one.found]
        large = [one for one in cases if one.size_ml >= 0.1]
        named = [one for one in found if is_named(one)]
        out = float(np.median([one.leaked_ml for one in found])) if found else float("nan")
        print(
            f"{kind or 'all':<14}{len(cases):>6}{len(found):>7}{len(large):>10}"
            f"{sum(one.found for one in large):>7}{len(named):>7}{out:>18.3f}"
        )
    sound = [one for one in results if not one.route]
    early = [one for one in leaks if one.stopped_by and one.leaked_ml == 0]
    print(
        f"stopped without a leak: {sum(bool(one.stopped_by) for one in sound)} of {len(sound)}, {len(early)} early",
        end="",
    )
    print(
        "".join(
            f" ({one.stopped_by}: {one.named} at {one.given_ml:.2f} mL)" for one in [*sound, *early] if one.stopped_by
        )
    )
    for name in ("volume_errors", "one_view_errors"):
        errors = np.abs([error for one in sound for error in getattr(one, name)])
        print(f"{name}: median {100 * np.median(errors):.1f} %, 95 % {100 * np.percentile(errors, 95):.1f} %")
    late = [one.frames_after_tenth for one in leaks if one.frames_after_tenth is not None]
    print(f"frames from 0.1 mL outside to the stop: {sorted(late)}")
    print(f"time for one update of both views: median {np.median([one.update_ms for one in results]):.0f} ms")


def is_named(result: Result) -> bool:
    """Whether the monitor's name is that of the route; a vein of the front counts as in front of the sacrum too."""
    names = {"venous": ("venous", "presacral")}.get(result.route, (result.route,))
    return any(result.named.startswith(name) for name in names)


if __name__ == "__main__":
    main()
