"""Does the cement in the cannula's bore, whose volume is known, tell how much of the picture is scatter?

The reference is taken with the empty cannula in place. Then its bore is filled, as it is before any cement leaves the
tip: 4.5 mm2 times the length that is seen. From what that darkens the veil of scatter is worked out (`cement.veil`),
as the monitor does from the pump's first millilitre, and with that veil the volume of 1.5 mL in the ala. The steel
around the bore is in the beam before and after. Both renderers, both views, a patient who breathes and a cannula that
trembles (the other renderer). With `--still` nothing moves, and the bore is measured by the plain logarithm of mean
pictures less what lies beside the cannula: the best that there could be.

Run: python Testing/benchmarks/cannula_standard.py [--patients N] [--first SEED] [--still]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import monitor_other_renderer as other
import monitor_scenes as own
import numpy as np
from numpy.typing import NDArray
from other_renderer import UNITS, Video, see_cement, see_shaft

from sacroplasty.cement.cannula import Cannula
from sacroplasty.cement.cement_map import CementMap, map_cement
from sacroplasty.cement.frames import binned
from sacroplasty.cement.leaks import pixel_size_mm
from sacroplasty.cement.pieces import widened
from sacroplasty.cement.reference import learn_background
from sacroplasty.cement.veil import unveiled, veil_share
from sacroplasty.errors import ImageError
from sacroplasty.geometry import FloatArray
from sacroplasty.image import Volume
from sacroplasty.phantom.make import Phantom, make_phantom
from sacroplasty.xray.geometry import XrayGeometry
from sacroplasty.xray.objects import Tube, object_line_integrals
from sacroplasty.xray.project import CEMENT_PER_MM

OUTER_MM, BORE_MM, LENGTH_MM = 3.05, 2.39, 110.0
#: The part of the bore that is measured, from the tip [mm]: not the tip's own cement, and what all views show.
PART_MM = (6.0, 45.0)
BESIDE_MM = 12.0
PUMP_ML, TOLD_ML = 0.8, 1.5
REFERENCES, LOOKS = 30, 8
#: A veil leaves at least the rest of the signal of the darkest pixels.
LARGEST_SHARE = 0.95

#: Makes a frame of a view: what the picture holds (nothing, the bore, cement in mL), and the time.
Take = Callable[[str, str | float, float], NDArray]


@dataclass(frozen=True)
class Errors:
    """Of the volume of `TOLD_ML` in the ala, as shares: not corrected, by the bore's veil, by the pump's.

    Attributes:
        bore: attenuation that the bore shows over what it has.
    """

    bore: float
    nothing: float
    by_bore: float
    by_pump: float


@dataclass(frozen=True)
class Standard:
    """What a known volume shows in a view: veil, and gain where it shows more than it has."""

    veil: float
    gain: float


def measure(take: Take, view: str, geometry: XrayGeometry, tip: FloatArray, cannula: Cannula, still: bool) -> Errors:
    """One view, from its reference to both corrections."""
    before = [take(view, "", own.FRAME_S * (number - REFERENCES)) for number in range(REFERENCES)]
    try:
        background = learn_background(before, geometry, tip + 8.0 * (np.array([*np.ndindex(3, 3, 3)]) - 1.0), cannula)
    except ImageError as error:
        print(f"    {view}: reference refused: {error}")
        return Errors(np.nan, np.nan, np.nan, np.nan)
    log_signal = background.log_signal.values
    pixel_mm = pixel_size_mm(background.geometry, tip)

    def seen(what: str | float, begin_s: float) -> list[CementMap]:
        maps: list[CementMap] = []
        for number in range(LOOKS + 1):
            known = maps[-1] if maps else None
            seen_now = map_cement(background, take(view, what, begin_s + own.FRAME_S * number), known, pixel_mm)
            maps += [seen_now] * (not seen_now.fault)
        # The first one took what it did not know yet for quiet.
        return maps[1:]

    along = cannula.along_mm(background.geometry)
    bore = (along > PART_MM[0]) & (along < PART_MM[1]) & background.usable
    middle = cannula.tip_ras + np.mean(PART_MM) * cannula.towards_hub
    bore_ml = np.pi / 4 * BORE_MM**2 * _seen_length_mm(along, bore) / 1000
    expected = _expected(bore_ml, pixel_size_mm(background.geometry, middle))
    if still:
        after = [take(view, "bore", own.FRAME_S * number) for number in range(REFERENCES)]
        shown = [_darkened(before, after, background.binning, bore, _beside(cannula, background.geometry))]
    else:
        shown = [one.sharp[bore] for one in seen("bore", 0.0)]
    if not shown:
        return Errors(np.nan, np.nan, np.nan, np.nan)
    by_bore = _standard(np.mean(shown, axis=0), log_signal[bore], expected)

    def in_ala(ml: float, begin_s: float) -> tuple[NDArray, NDArray]:
        maps = seen(ml, begin_s)
        here = np.mean([widened(one.detected, 2) for one in maps], axis=0) > 0.5
        return np.mean([one.sharp[here] for one in maps], axis=0), log_signal[here]

    by_pump = _standard(*in_ala(PUMP_ML, 5.0), _expected(PUMP_ML, pixel_mm))
    found = in_ala(TOLD_ML, 10.0)
    truth = _expected(TOLD_ML, pixel_mm)
    errors = [_sum(*found, standard) / truth - 1 for standard in (Standard(0.0, 1.0), by_bore, by_pump)]
    return Errors(float(np.mean([one.sum() for one in shown])) / expected, *errors)


def _darkened(
    before: list[NDArray], after: list[NDArray], binning: int, bore: NDArray[np.bool_], beside: NDArray[np.bool_]
) -> NDArray:
    """Attenuation that came into the bore, by mean pictures of something that stands still."""
    means = [np.mean([binned(one, binning) for one in frames], axis=0) for frames in (before, after)]
    change = np.log(np.maximum(means[0], 1.0)) - np.log(np.maximum(means[1], 1.0))
    return np.asarray(change[bore] - np.median(change[beside]))


def _beside(cannula: Cannula, geometry: XrayGeometry) -> NDArray[np.bool_]:
    """Pixels beside the part that is measured."""
    along = replace(cannula, outer_diameter_mm=cannula.outer_diameter_mm + BESIDE_MM).along_mm(geometry)
    return (along > PART_MM[0]) & (along < PART_MM[1]) & ~cannula.shadow(geometry)


def _seen_length_mm(along: NDArray, bore: NDArray[np.bool_]) -> float:
    """How much of the measured part is usable: bins of a millimetre that have most of their pixels."""
    bins = [(along > start) & (along < start + 1) for start in np.arange(*PART_MM)]
    return float(sum(np.count_nonzero(one & bore) > 0.8 * np.count_nonzero(one) for one in bins))


def _expected(ml: float, pixel_mm: float) -> float:
    return ml * 1000 * CEMENT_PER_MM / pixel_mm**2


def _find_veil(seen: NDArray, log_signal: NDArray, expected: float) -> float:
    """The veil with which attenuations of pixels (n,) sum up to what is expected: 0 where they show more."""
    low, high = 0.0, LARGEST_SHARE * float(np.exp(np.percentile(log_signal - seen, 5)))
    for _ in range(18):
        middle = (low + high) / 2
        if float(unveiled(seen, veil_share(log_signal, middle)).sum()) < expected:
            low = middle
        else:
            high = middle
    return low


def _standard(seen: NDArray, log_signal: NDArray, expected: float) -> Standard:
    return Standard(_find_veil(seen, log_signal, expected), float(np.clip(expected / seen.sum(), 0.4, 1.0)))


def _sum(seen: NDArray, log_signal: NDArray, standard: Standard) -> float:
    return standard.gain * float(unveiled(seen, veil_share(log_signal, standard.veil)).sum())


def of_own_renderer(phantom: Phantom, seed: int, side: str, still: bool) -> dict[str, Errors]:
    """Both views of one ala under this project's fluoroscope, which breathes; the cannula moves with the patient."""
    scene = own.make_scene(phantom, seed, side, 256)
    cannula = scene.monitor._cannula
    assert cannula is not None
    hub = scene.tip + LENGTH_MM * cannula.towards_hub
    steel = Tube(scene.tip, hub, OUTER_MM, BORE_MM)
    filling = Tube(scene.tip, hub, BORE_MM, material="cement")
    empty = {v: one + object_line_integrals([steel], scene.true[v]) for v, one in scene.body.items()}
    filled = {v: one + object_line_integrals([filling], scene.true[v]) for v, one in empty.items()}
    camera = own.Fluoroscope(scene)
    if still:
        camera._amplitude = dict.fromkeys(own.VIEWS, np.zeros(2))

    def take(view: str, what: str | float, now_s: float) -> NDArray:
        scene.body = filled if what else empty
        cement: Volume | None = None
        if isinstance(what, float):
            cement = own.cement_attenuation(scene, what, np.empty((0, 3)), 0.0)
            scene.body = empty
        return camera.frames(cement, now_s)[view].pixels

    return {view: measure(take, view, scene.nominal[view], scene.tip, cannula, still) for view in own.VIEWS}


def of_other_renderer(ala: other.Ala, make_number: int, seed: int, still: bool) -> dict[str, Errors]:
    """Both views of one ala under another make of C-arm."""
    rng = np.random.default_rng([seed, 77, make_number])
    seen_tip = ala.tip + rng.normal(0, other.TIP_SD_MM, 3)
    cannula = Cannula(seen_tip, ala.shaft.towards_hub, OUTER_MM)
    videos = {view: Video(UNITS[make_number], ala.bodies[view], rng) for view in other.VIEWS}
    for video in videos.values() if still else ():
        video._breath, video._drift = np.zeros(4), np.zeros(2)
    steel = replace(ala.shaft, outer_mm=OUTER_MM, inner_mm=BORE_MM)

    def take(view: str, what: str | float, now_s: float) -> NDArray:
        pose = ala.true[view]
        trembling = rng.normal(0, 0.0 if still else other.TREMBLING_MM, 3)
        shaft = replace(steel, tip_ras=steel.tip_ras + trembling)
        cement = None
        if isinstance(what, float):
            voxels = other._filled(ala.inside, what)
            cement = see_cement(ala.points[voxels[:, 0].astype(int)], voxels[:, 1], other.GRID_MM, pose)
        elif what:
            cement = see_shaft(replace(shaft, outer_mm=BORE_MM, inner_mm=0.0), pose)
        return videos[view].frame(cement, see_shaft(shaft, pose), now_s)

    return {view: measure(take, view, ala.nominal[view], ala.tip, cannula, still) for view in other.VIEWS}


def main() -> None:
    parser = argparse.ArgumentParser(description="The cement in the cannula as a standard of volume.")
    parser.add_argument("--patients", type=int, default=2)
    parser.add_argument("--first", type=int, default=2001, help="seed of the first patient")
    parser.add_argument("--still", action="store_true", help="nothing moves")
    options = parser.parse_args()
    found: dict[str, list[Errors]] = {}
    print(f"{'renderer':<22}{'ala':<12}{'view':<9}{'bore shows':>11}{'not corrected':>15}{'by bore':>9}{'by pump':>9}")
    for seed in range(options.first, options.first + options.patients):
        phantom = make_phantom(seed, spacing_mm=(1.2, 1.2, 2.0))
        for side in ("left", "right"):
            ala = other.make_ala(phantom, seed, side, 256)
            cases: dict[str, Callable[[], dict[str, Errors]]] = {
                "own": partial(of_own_renderer, phantom, seed, side, options.still)
            }
            cases |= {
                make.name: partial(of_other_renderer, ala, n, seed, options.still) for n, make in enumerate(UNITS)
            }
            for name, case in cases.items():
                for view, one in case().items():
                    found.setdefault(name, []).append(one)
                    print(
                        f"{name:<22}{seed} {side:<7}{view:<9}{one.bore:>11.2f}{100 * one.nothing:>+13.0f} %"
                        f"{100 * one.by_bore:>+7.0f} %{100 * one.by_pump:>+7.0f} %",
                        flush=True,
                    )
    print(f"\n{'renderer':<22}{'views':>6}{'median |error|: not corrected':>31}{'by bore':>9}{'by pump':>9}", end="")
    print(f"{'within 10 % by bore':>21}")
    for name, errors in found.items():
        all_three = np.abs([[one.nothing, one.by_bore, one.by_pump] for one in errors])
        medians = 100 * np.nanmedian(all_three, axis=0)
        print(
            f"{name:<22}{len(errors):>6}{medians[0]:>29.0f} %{medians[1]:>7.0f} %{medians[2]:>7.0f} %"
            f"{np.count_nonzero(all_three[:, 1] <= 0.1):>12} of {len(errors)}"
        )


if __name__ == "__main__":
    main()
