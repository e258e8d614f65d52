"""Bad pictures for the spread monitor, counted: which are told, and which good ones are not taken for bad.

Pictures of `other_renderer.py`: for each ala, make of C-arm and view one place, with a steel cannula that trembles.
First references of several kinds, then single frames after a good reference. A place whose good reference is refused
for another reason is counted apart.

Run: python Testing/benchmarks/monitor_bad_input.py [--patients N] [--first SEED]
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import replace

import monitor_other_renderer as other
import numpy as np
from numpy.typing import NDArray
from other_renderer import UNITS, Shaft, Video, see_shaft

from sacroplasty.cement.cannula import Cannula
from sacroplasty.cement.monitor import Frame, MonitorSettings, SpreadMonitor
from sacroplasty.errors import ImageError
from sacroplasty.phantom.make import make_phantom
from sacroplasty.xray.geometry import XrayGeometry

REFERENCES, WARMING_UP = 30, 4


def eight_bit(pixels: NDArray) -> NDArray:
    return np.rint(pixels * (255.0 / max(int(pixels.max()), 1))).astype(np.uint8)


def colored(pixels: NDArray) -> NDArray:
    return np.stack([pixels, pixels, pixels // 2], axis=-1)


def grey_as_color(pixels: NDArray) -> NDArray:
    return np.repeat(pixels[..., None], 3, axis=2)


def floating(pixels: NDArray) -> NDArray:
    return pixels / 7.0


def with_nan(pixels: NDArray) -> NDArray:
    values = pixels.astype(float)
    values[::7, ::5] = np.nan
    return values


def smaller(pixels: NDArray) -> NDArray:
    return pixels[:-1]


def black(pixels: NDArray) -> NDArray:
    return np.zeros_like(pixels)


#: What is done to each picture of a reference, and whether it must be learned.
REFERENCE_KINDS: dict[str, tuple[Callable[[NDArray], NDArray], bool]] = {
    "8 bit": (eight_bit, True),
    "grey as three colors": (grey_as_color, True),
    "floating point": (floating, True),
    "colors": (colored, False),
    "NaN": (with_nan, False),
    "another size": (smaller, False),
    "black": (black, False),
}
#: The same for single frames, which must make the monitor blind, with a word of why.
FRAME_KINDS: dict[str, tuple[Callable[[NDArray], NDArray], str]] = {
    "colors": (colored, "color"),
    "NaN": (with_nan, "NaN"),
    "another size": (smaller, "pixels"),
    "black": (black, "black"),
}


class Place:
    """One view of one ala under one make of C-arm."""

    def __init__(self, ala: other.Ala, make: int, view: str, seed: int) -> None:
        self.rng = np.random.default_rng([seed, make, other.VIEWS.index(view), 41])
        self.ala, self.view = ala, view
        self.white = 2 ** UNITS[make].bits - 1
        self.video = Video(UNITS[make], ala.bodies[view], self.rng)
        self.now_s = -REFERENCES * other.FRAME_S
        tip = ala.tip + self.rng.normal(0, other.TIP_SD_MM, 3)
        self.cannula = Cannula(tip, ala.shaft.towards_hub, ala.shaft.outer_mm)
        self.before = [self.frame() for _ in range(REFERENCES)][WARMING_UP:]

    def frame(self) -> Frame:
        """The next picture; the time goes on."""
        self.now_s += other.FRAME_S
        trembling = self.rng.normal(0, other.TREMBLING_MM, 3)
        shaft = Shaft(self.ala.shaft.tip_ras + trembling, self.ala.shaft.towards_hub)
        pixels = self.video.frame(None, see_shaft(shaft, self.ala.true[self.view]), self.now_s)
        return Frame(pixels, self.now_s, self.ala.nominal[self.view])

    def learned(self, frames: list[Frame], told: bool = True) -> SpreadMonitor:
        """A monitor with this reference; told of the cannula or not. Raises `ImageError` as the monitor does."""
        settings = MonitorSettings(frame_period_s=other.FRAME_S)
        monitor = SpreadMonitor(None, self.cannula.tip_ras, settings, self.cannula if told else None)
        monitor.set_reference(self.view, frames)
        return monitor

    def negative(self, pixels: NDArray) -> NDArray:
        """Bone bright, in the bits that this C-arm has."""
        return np.asarray(self.white - np.minimum(pixels, self.white), pixels.dtype)

    def refusal(self, change: Callable[[NDArray], NDArray], told: bool = True) -> str:
        try:
            self.learned([replace(one, pixels=change(one.pixels)) for one in self.before], told)
        except ImageError as error:
            return str(error)
        return ""


def references(place: Place, tally: dict[str, Counter[str]]) -> SpreadMonitor | None:
    """Try references of every kind; returns the monitor of the good one."""
    try:
        monitor = place.learned(place.before)
    except ImageError as error:
        tally["good reference"]["told to be inverted" if "inverted" in str(error) else "refused for movement"] += 1
        return None
    tally["good reference"]["as it should be"] += 1
    for kind, (change, good) in REFERENCE_KINDS.items():
        refusal = place.refusal(change)
        tally[f"reference: {kind}"]["as it should be" if good != bool(refusal) else f"not: {refusal or 'learned'}"] += 1
    refusal = place.refusal(place.negative)
    tally["reference: negative, refused"]["as it should be" if refusal else "not: learned"] += 1
    tally["reference: negative, told as such"]["as it should be" if "inverted" in refusal else f"not: {refusal}"] += 1
    # Where nobody says where the cannula is, the greys cannot be judged: then nothing may be called inverted.
    wrong = "inverted" in place.refusal(lambda pixels: pixels, told=False)
    tally["reference: good, cannula not told"]["not: inverted" if wrong else "as it should be"] += 1
    one = place.before[:1]
    try:
        place.learned(one)
        tally["reference: one frame"]["not: learned"] += 1
    except ImageError:
        tally["reference: one frame"]["as it should be"] += 1
    return monitor


def single_frames(place: Place, monitor: SpreadMonitor, tally: dict[str, Counter[str]]) -> None:
    """Frames of every kind between good ones."""

    def told(kind: str, frame: Frame, words: str) -> None:
        health = monitor.update({place.view: frame}, place.now_s).health
        right = health != "ok" and words in health
        tally[f"frame: {kind}"]["as it should be" if right else f"not: {health}"] += 1

    def good() -> None:
        health = monitor.update({place.view: place.frame()}, place.now_s).health
        tally["frame: good"]["as it should be" if health == "ok" else f"not: {health}"] += 1

    good()
    for kind, (change, words) in (("negative", (place.negative, "")), *FRAME_KINDS.items()):
        frame = place.frame()
        told(kind, replace(frame, pixels=change(frame.pixels)), words)
        good()
    last = place.frame()
    monitor.update({place.view: last}, place.now_s)
    place.now_s += other.FRAME_S
    told("frozen", replace(last, time_s=place.now_s), "frozen")
    good()
    told("time runs backwards", replace(place.frame(), time_s=place.now_s - 5.0), "backwards")
    good()
    told("no time (NaN)", replace(place.frame(), time_s=float("nan")), "time")
    good()
    told("pose of another C-arm", replace(place.frame(), geometry=_elsewhere(place)), "C-arm moved")
    good()
    told("no pose", replace(place.frame(), geometry=None), "no geometry")
    good()


def _elsewhere(place: Place) -> XrayGeometry:
    geometry = place.ala.nominal[place.view]
    return replace(geometry, pixel_spacing_mm=(0.7 * geometry.pixel_spacing_mm[0], 0.7 * geometry.pixel_spacing_mm[1]))


def main() -> None:
    parser = argparse.ArgumentParser(description="Bad pictures for the spread monitor, counted.")
    parser.add_argument("--patients", type=int, default=4)
    parser.add_argument("--first", type=int, default=2001, help="seed of the first patient")
    options = parser.parse_args()
    tally: dict[str, Counter[str]] = defaultdict(Counter)
    for seed in range(options.first, options.first + options.patients):
        phantom = make_phantom(seed, spacing_mm=(1.2, 1.2, 2.0))
        ala = other.make_ala(phantom, seed, "left" if seed % 2 else "right", 256)
        for make in range(len(UNITS)):
            for view in other.VIEWS:
                place = Place(ala, make, view, seed)
                monitor = references(place, tally)
                if monitor is not None:
                    single_frames(place, monitor, tally)
        print(f"up to patient {seed}:")
        _print_table(tally)


def _print_table(tally: dict[str, Counter[str]]) -> None:
    print(f"{'kind':<38}{'as it should be':>16}   otherwise")
    for kind, counts in tally.items():
        right, all_counted = counts["as it should be"], sum(counts.values())
        otherwise = "; ".join(f"{count} {what}" for what, count in counts.items() if what != "as it should be")
        print(f"{kind:<38}{right:>9} of {all_counted:<4}   {otherwise}", flush=True)


if __name__ == "__main__":
    main()
