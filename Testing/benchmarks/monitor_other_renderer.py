"""The spread monitor on pictures of another renderer (`other_renderer.py`) than the one it was developed with.

Each case is one ala of a synthetic patient under one make of C-arm: cement grows around the tip as an uneven ball
within the true bone; in a case with a leak half of the flow goes out by one route until 0.3 mL are out, by the
phantom's true labels. A steel cannula stands in the picture and trembles. The monitor is told the nominal pose (off by
0.4 mm and 0.2 degrees), the segmentation, the tip (off by 0.7 mm), and the pump's volume; nothing of the picture's
making.

Run: python Testing/benchmarks/monitor_other_renderer.py [--patients N] [--first SEED] [--unit N] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np
from monitor_tips import deepest_tip, leaves_bone, way_out
from numpy.typing import NDArray
from other_renderer import UNITS, Body, Shaft, Unit, Video, see_body, see_cement, see_shaft
from scipy import ndimage

from sacroplasty.anatomy.labels import BONE_LABEL, REGION_LABEL
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.cement.cannula import Cannula
from sacroplasty.cement.grid import local_grid, sample
from sacroplasty.cement.monitor import Frame, MonitorReading, MonitorSettings, SpreadMonitor
from sacroplasty.cement.zones import make_zones
from sacroplasty.errors import ImageError
from sacroplasty.geometry import FloatArray, rigid, rotation_about, transform_points
from sacroplasty.phantom.make import Phantom, make_phantom
from sacroplasty.xray.geometry import CArm, XrayGeometry

VIEWS = ("outlet", "lateral")
ROUTES = ("", "foramen_s1", "si_joint", "presacral", "posterior")
FRAME_S, FLOW_ML_S, LARGEST_ML, LEAK_ML, LEAK_SHARE = 1 / 7.5, 0.1, 3.0, 0.3, 0.5
#: Frames of the reference, which takes in a breath, and before them while the exposure settles.
REFERENCE_FRAMES, SETTLING_FRAMES = 30, 4
POSE_SD_MM, POSE_SD_DEG, TIP_SD_MM, TREMBLING_MM = 0.4, 0.2, 0.7, 0.15
GRID_MM, HALF_MM = 1.0, 45.0


@dataclass(frozen=True)
class Ala:
    """One side of a patient, with the truth.

    Attributes:
        points: (n, 3) RAS, of a grid around the tip.
        inside: order in which the grid's voxels (flat indices) fill.
        leaks: by route likewise.
        bodies: what the rays of each view cross.
    """

    anatomy: Anatomy
    side: str
    tip: FloatArray
    shaft: Shaft
    points: FloatArray
    inside: NDArray[np.intp]
    leaks: dict[str, NDArray[np.intp]]
    nominal: dict[str, XrayGeometry]
    true: dict[str, XrayGeometry]
    bodies: dict[str, Body]


def make_ala(phantom: Phantom, seed: int, side: str, pixels: int) -> Ala:
    rng = np.random.default_rng([seed, 31, side == "left"])
    anatomy = Anatomy(
        phantom.bones, phantom.regions, phantom.foramina, {}, phantom.SacrumToRAS, {}, (), "truth", "0" * 64
    )
    tip = deepest_tip(phantom, side) + rng.normal(0, 1.5, 3)
    shaft = Shaft(tip, way_out(phantom, tip, side))
    grid = local_grid(tip, HALF_MM, GRID_MM)
    bones, regions = sample(phantom.bones, grid, nearest=True), sample(phantom.regions, grid, nearest=True)
    points = grid.ras_of(np.moveaxis(np.indices(grid.voxels.shape), 0, -1))
    nerves = np.isin(regions, [value for name, value in REGION_LABEL.items() if "foramen" in name or "canal" in name])
    sacrum = (bones == BONE_LABEL["sacrum"]) & ~nerves
    cancellous = ndimage.distance_transform_edt(sacrum) > 2
    # The front runs by up to a third faster or slower, in patches of a centimetre.
    patches = ndimage.gaussian_filter(rng.normal(size=grid.voxels.shape), 4)
    unevenness = np.exp(0.25 * patches / patches.std())
    inside = _order(cancellous, np.linalg.norm(points - tip, axis=-1) * unevenness)
    places = _places(phantom, side, points, sacrum, bones, regions, shaft)
    leaks = {}
    for route, place in places.items():
        # It leaves where the cement of 1.5 mL comes nearest.
        cement = points.reshape(-1, 3)[inside[:1500]]
        candidates = points[place]
        if len(candidates) < 600:
            continue
        near = np.linalg.norm(candidates[:, None] - cement[None, ::10], axis=-1).min(axis=1)
        if route != "posterior" and near.min() > 12:
            continue
        start = candidates[np.argmin(near)]
        if route == "posterior":
            entry = leaves_bone(phantom, tip, shaft.towards_hub)
            start = candidates[np.argmin(np.linalg.norm(candidates - entry, axis=1))]
        leaks[route] = _order(place, np.linalg.norm(points - start, axis=-1))
    error = rigid(rotation_about(rng.normal(size=3), rng.normal(0, POSE_SD_DEG)), rng.normal(0, POSE_SD_MM, 3))
    error[:3, 3] += tip - error[:3, :3] @ tip
    nominal = {view: CArm().view(view, phantom.SacrumToRAS).resampled(pixels) for view in VIEWS}
    true = {view: replace(pose, RASToDetector=pose.RASToDetector @ error) for view, pose in nominal.items()}
    bodies = {view: see_body(phantom.ct, pose) for view, pose in true.items()}
    return Ala(anatomy, side, tip, shaft, points.reshape(-1, 3), inside, leaks, nominal, true, bodies)


def _places(
    phantom: Phantom, side: str, points: FloatArray, sacrum: NDArray, bones: NDArray, regions: NDArray, shaft: Shaft
) -> dict[str, NDArray[np.bool_]]:
    """Where the cement of each route goes, by the true labels."""
    hip = bones == BONE_LABEL[f"hip_{side}"]
    from_sacrum, nearest = ndimage.distance_transform_edt(~sacrum, return_indices=True)
    in_sacrum = transform_points(np.linalg.inv(phantom.SacrumToRAS), points)
    way = in_sacrum - in_sacrum[tuple(nearest)]
    soft = (bones == 0) & ~np.isin(regions, [*REGION_LABEL.values()])
    leaves = leaves_bone(phantom, shaft.tip_ras, shaft.towards_hub)
    return {
        "foramen_s1": regions == REGION_LABEL[f"foramen_s1_{side}"],
        "si_joint": soft & (from_sacrum <= 3.5) & (ndimage.distance_transform_edt(~hip) <= 3.5),
        "presacral": soft & (way[..., 1] < -np.abs(way[..., 2])) & (way[..., 1] < -np.abs(way[..., 0])),
        "posterior": soft & (np.linalg.norm(points - leaves, axis=-1) < 15) & (way[..., 1] > 0),
    }


def _order(place: NDArray[np.bool_], cost: FloatArray) -> NDArray[np.intp]:
    """Flat indices of the voxels of a place that hang together with its cheapest one, by rising cost."""
    pieces, _ = ndimage.label(place)
    cheapest = np.argmin(np.where(place, cost, np.inf))
    here = np.flatnonzero(pieces.ravel() == pieces.ravel()[cheapest])
    return here[np.argsort(cost.ravel()[here])]


@dataclass(frozen=True)
class Result:
    """What became of a case.

    Attributes:
        refused: why the reference was not learned; empty when it was.
        stopped_by, named: `leak` or `blind`, with its route or reason; empty when nothing stopped it.
        leaked_ml: what was out then, or at the end.
        errors: of the volume, as shares of what lies in the picture, from 1 mL on.
        blind_frames: of all.
    """

    seed: int
    side: str
    unit: str
    route: str
    refused: str
    stopped_by: str
    named: str
    given_ml: float
    leaked_ml: float
    errors: tuple[float, ...]
    blind_frames: int
    frames: int


def run(ala: Ala, make: Unit, route: str, seed: int) -> Result:
    """Inject until the monitor stops the pump, or the end. A blind monitor is waited for."""
    rng = np.random.default_rng([seed, UNITS.index(make), ROUTES.index(route)])
    seen_tip = ala.tip + rng.normal(0, TIP_SD_MM, 3)
    settings = MonitorSettings(frame_period_s=FRAME_S)
    cannula = Cannula(seen_tip, ala.shaft.towards_hub, ala.shaft.outer_mm)
    zones = make_zones(ala.anatomy, seen_tip, (ala.side,), cannula=cannula)
    monitor = SpreadMonitor(zones, seen_tip, settings, cannula)
    videos = {view: Video(make, ala.bodies[view], rng) for view in VIEWS}
    pictures = _Pictures(ala, videos, rng)
    onset_ml = float(rng.uniform(0.8, 1.6))
    frames_before = SETTLING_FRAMES + REFERENCE_FRAMES
    before = [pictures.take(0, route, 0, FRAME_S * (number - frames_before)) for number in range(frames_before)]
    blind, number, given, leaked = 0, 0, 0.0, 0.0
    errors: list[float] = []
    stop = None
    try:
        for view in VIEWS:
            monitor.set_reference(view, [frames[view] for frames in before[SETTLING_FRAMES:]])
    except ImageError as error:
        return Result(seed, ala.side, make.name, route, str(error), "", "", 0.0, 0.0, (), 0, 0)
    while given < LARGEST_ML and stop is None and leaked < LEAK_ML:
        number += 1
        leaking = bool(route) and given >= onset_ml
        step_ml = FLOW_ML_S * FRAME_S
        given += step_ml
        leaked += LEAK_SHARE * step_ml * leaking
        reading = monitor.update(
            pictures.take(given - leaked, route, leaked, number * FRAME_S), number * FRAME_S, given
        )
        blind += not reading.healthy
        errors += _errors(reading, given)
        stop = next((event for event in reading.events if event.level == "leak"), None)
        if blind > 12:
            return Result(
                seed,
                ala.side,
                make.name,
                route,
                "",
                "blind",
                reading.health,
                given,
                leaked,
                tuple(errors),
                blind,
                number,
            )
    level, named = ("", "") if stop is None else (stop.level, stop.route)
    return Result(seed, ala.side, make.name, route, "", level, named, given, leaked, tuple(errors), blind, number)


def _errors(reading: MonitorReading, given_ml: float) -> list[float]:
    return [reading.volume_ml / given_ml - 1] if reading.healthy and given_ml >= 1 else []


class _Pictures:
    """Frames of both views with so much cement here and there."""

    def __init__(self, ala: Ala, videos: dict[str, Video], rng: np.random.Generator) -> None:
        self._ala, self._videos, self._rng = ala, videos, rng

    def take(self, good_ml: float, route: str, leaked_ml: float, now_s: float) -> dict[str, Frame]:
        ala = self._ala
        voxels = np.concatenate([_filled(ala.inside, good_ml), _filled(ala.leaks.get(route, ala.inside), leaked_ml)])
        index, share = voxels[:, 0].astype(int), voxels[:, 1]
        trembling = rigid(
            rotation_about(self._rng.normal(size=3), self._rng.normal(0, 0.15)), self._rng.normal(0, TREMBLING_MM, 3)
        )
        shaft = Shaft(
            transform_points(trembling, np.zeros(3)) + ala.shaft.tip_ras, trembling[:3, :3] @ ala.shaft.towards_hub
        )
        frames = {}
        for view, video in self._videos.items():
            pose = ala.true[view]
            cement = see_cement(ala.points[index], share, GRID_MM, pose) if len(index) else None
            frames[view] = Frame(video.frame(cement, see_shaft(shaft, pose), now_s), now_s, ala.nominal[view])
        return frames


def _filled(order: NDArray[np.intp], volume_ml: float) -> FloatArray:
    """(n, 2) flat index and share of the voxels that a volume fills, the last one in part."""
    count = volume_ml * 1000 / GRID_MM**3
    whole = int(np.ceil(count))
    share = np.ones(whole)
    if whole:
        share[-1] = count - (whole - 1)
    return np.column_stack([order[:whole], share[: len(order)]])


def cases(first: int, patients: int, pixels: int) -> Iterator[tuple[Ala, str, int]]:
    """Each route of one ala of each patient, left and right by turns."""
    for seed in range(first, first + patients):
        phantom = make_phantom(seed, spacing_mm=(1.2, 1.2, 2.0))
        ala = make_ala(phantom, seed, "left" if seed % 2 else "right", pixels)
        for route in ROUTES:
            if not route or route in ala.leaks:
                yield ala, route, seed


def main() -> None:
    parser = argparse.ArgumentParser(description="The spread monitor on pictures of another renderer.")
    parser.add_argument("--patients", type=int, default=3)
    parser.add_argument("--first", type=int, default=2000, help="seed of the first patient")
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument("--unit", type=int, choices=range(len(UNITS)), help="one make of C-arm only")
    parser.add_argument("--json", help="file for all results")
    options = parser.parse_args()
    makes = UNITS if options.unit is None else (UNITS[options.unit],)
    results: list[Result] = []
    for ala, route, seed in cases(options.first, options.patients, options.pixels):
        for make in makes:
            result = run(ala, make, route, seed)
            results.append(result)
            error = f"{100 * np.median(result.errors):+.0f} %" if result.errors else "-"
            print(
                f"{seed} {result.side:5s} {make.name:20s} {route or 'sound':10s} "
                f"{result.refused or result.stopped_by or '-'} {result.named} "
                f"leaked {result.leaked_ml:.3f} of {result.given_ml:.2f} mL, volume {error}, "
                f"blind {result.blind_frames} of {result.frames}",
                flush=True,
            )
    _print_table(results)
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump([asdict(one) for one in results], file)


def _print_table(results: list[Result]) -> None:
    print(f"\n{'C-arm':<22}{'refused':>8}{'leaks':>6}{'found':>6}{'named':>6}{'median out mL':>14}", end="")
    print(f"{'false stops':>12}{'blind %':>8}{'volume: median |error| %':>26}{'95 %':>6}")
    for name in dict.fromkeys(result.unit for result in results):
        here = [result for result in results if result.unit == name]
        leaks = [result for result in here if result.route and not result.refused]
        early = [result for result in here if result.stopped_by == "leak" and result.leaked_ml == 0]
        found = [result for result in leaks if result.stopped_by == "leak" and result.leaked_ml > 0]
        out = np.median([result.leaked_ml for result in found]) if found else np.nan
        named = sum(result.named.startswith(result.route) for result in found)
        frames = sum(result.frames for result in here)
        errors = np.abs([error for result in here for error in result.errors]) if here else np.empty(0)
        middle, high = np.percentile(100 * errors, [50, 95]) if errors.size else (np.nan, np.nan)
        print(
            f"{name:<22}{sum(bool(result.refused) for result in here):>8}{len(leaks):>6}{len(found):>6}{named:>6}"
            f"{out:>14.3f}{len(early):>7} of {len(here):<3}"
            f"{100 * sum(result.blind_frames for result in here) / max(frames, 1):>7.1f}{middle:>26.1f}{high:>6.1f}"
        )


if __name__ == "__main__":
    main()
