"""Simulated study of the spread monitor: leaks of 0.02 to 0.5 mL on every route, and injections without one.

Cement fills the bone from the tip; from some volume on a share of the flow goes out by one route until the leak has its
size (see `monitor_scenes`). The tip stands in the middle of the ala; for leaks into the S2 foramen at its level, for
those into the canal in the body of S1 (see `monitor_tips`). The monitor sees frames, nominal geometry, anatomy and the
pump's volume, at 7.5 frames a second all the time. Results are added to a file line by line, so that a long run can be
interrupted and gone on with.

Run: python Testing/benchmarks/monitor_study.py --results FILE [--patients N] [--first SEED] [--pixels N]
     python Testing/benchmarks/monitor_study.py --results FILE --patients 0     (tables alone)
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from monitor_scenes import (
    FRAME_S,
    ROUTES,
    Fluoroscope,
    Scene,
    cement_attenuation,
    leak_path,
    learn_views,
    make_scene,
)
from monitor_tips import AIM_OF_ROUTE, ALA

from sacroplasty.errors import ImageError, PlanError
from sacroplasty.phantom.make import make_phantom

#: Twice the usual flow: what leaks between two frames is more, and a case has half the frames.
FLOW_ML_S = 0.1
LARGEST_ML = 3.5
SIZES_ML = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
#: So many frames go on after the leak has its size.
FRAMES_AFTER = 8


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
        stopped_by: `leak`, `blind`, `refused` for a reference that was, or nothing.
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
    try:
        learn_views(scene, camera)
    except ImageError as error:
        return Result(
            scene.seed, scene.side, case.route, case.size_ml, "refused", str(error), 0, 0, None, [], [], np.nan
        )
    given, leaked, tenth_at, frames_left = 0.0, 0.0, None, FRAMES_AFTER
    errors: list[float] = []
    one_view: list[float] = []
    spent: list[float] = []
    stop = None
    for number in range(1, 2000):
        leaking = bool(case.route) and given >= case.onset_ml
        step_ml = FLOW_ML_S * FRAME_S
        given += step_ml
        if leaking:
            leaked = min(leaked + case.share * step_ml, case.size_ml)
        frames = camera.frames(cement_attenuation(scene, given - leaked, path, leaked), number * FRAME_S)
        began = time.perf_counter()
        reading = monitor.update(frames, number * FRAME_S, given)
        spent.append(1000 * (time.perf_counter() - began))
        if leaked >= 0.1 - 1e-9 and tenth_at is None:
            tenth_at = number
        if given >= 1.0 and leaked == 0 and reading.healthy:
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


def cases_of(seed: int, side: str) -> list[Case]:
    """A case of every route, sizes and onsets drawn, and one without a leak."""
    rng = np.random.default_rng([seed, 5, side == "left"])
    cases = [Case("", 0.0, 0.0, LARGEST_ML)]
    for route in ROUTES:
        size_ml = float(rng.choice(SIZES_ML))
        cases.append(Case(route, size_ml, float(rng.uniform(0.3, 0.8)), float(rng.uniform(0.5, 2.5))))
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description="Leaks found by the spread monitor on synthetic patients.")
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--first", type=int, default=1000, help="seed of the first patient")
    parser.add_argument("--pixels", type=int, default=256)
    parser.add_argument(
        "--results", type=Path, required=True, help="file of results, a line each; what it holds is not done again"
    )
    options = parser.parse_args()
    results = _read(options.results)
    done = {(one.seed, one.side, one.route) for one in results}
    for seed in range(options.first, options.first + options.patients):
        phantom = make_phantom(seed, spacing_mm=(1.2, 1.2, 2.0))
        for side in ("left", "right"):
            for case in cases_of(seed, side):
                if (seed, side, case.route) in done:
                    continue
                try:
                    aim = AIM_OF_ROUTE.get(case.route, ALA)
                    result = run(make_scene(phantom, seed, side, options.pixels, aim), case)
                except PlanError as error:
                    print(f"seed {seed} {side}: {error}")
                    break
                if result is not None:
                    results.append(result)
                    with open(options.results, "a", encoding="utf-8") as file:
                        file.write(json.dumps(asdict(result)) + "\n")
                    print(_line(result), flush=True)
    _print_tables(results)


def _read(path: Path) -> list[Result]:
    if not path.exists():
        return []
    return [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


def _line(one: Result) -> str:
    stop = f"{one.stopped_by or '-':5s} {one.named:28s}"
    return (
        f"{one.seed} {one.side:5s} {one.route or 'sound':12s} size {one.size_ml:.2f}: {stop} "
        f"leaked {one.leaked_ml:.3f} of {one.given_ml:.2f} mL, {one.update_ms:.0f} ms"
    )


def _print_tables(results: list[Result]) -> None:
    early = [one for one in results if one.stopped_by and one.leaked_ml == 0]
    leaks = [one for one in results if one.route and one not in early]
    print(f"\n{'route':<14}{'cases':>6}{'found':>7}{'>=0.05 mL':>11}{'found':>7}{'>=0.1 mL':>10}{'found':>7}", end="")
    print(f"{'by 0.1 mL':>11}{'named':>7}{'median leaked mL':>18}")
    for kind in (*ROUTES, ""):
        cases = [one for one in leaks if one.route == kind or not kind]
        found = [one for one in cases if one.found]
        small, large = ([one for one in cases if one.size_ml >= size] for size in (0.05, 0.1))
        in_time = [one for one in found if one.leaked_ml <= 0.1 + 1e-9]
        out = float(np.median([one.leaked_ml for one in found])) if found else float("nan")
        print(
            f"{kind or 'all':<14}{len(cases):>6}{len(found):>7}{len(small):>11}{sum(one.found for one in small):>7}"
            f"{len(large):>10}{sum(one.found for one in large):>7}{len(in_time):>11}"
            f"{sum(is_named(one) for one in found):>7}{out:>18.3f}"
        )
    print(f"stopped without a leak: {len(early)} of {len(results)} injections, each up to its leak or its end")
    for one in early:
        print(f"  {one.seed} {one.side}: {one.stopped_by} {one.named} at {one.given_ml:.2f} mL")
    for name in ("volume_errors", "one_view_errors"):
        errors = np.abs([error for one in results for error in getattr(one, name)])
        print(f"{name}: median {100 * np.median(errors):.1f} %, 95 % {100 * np.percentile(errors, 95):.1f} %")
    late = np.array(
        [
            one.frames_after_tenth
            for one in leaks
            if one.size_ml >= 0.1 and one.found and one.frames_after_tenth is not None
        ]
    )
    large = [one for one in leaks if one.size_ml >= 0.1]
    in_time = sum(one.found and (one.frames_after_tenth is None or one.frames_after_tenth <= 2) for one in large)
    print(
        f"stopped at most two frames after 0.1 mL were out: {in_time} of {len(large)}; "
        f"later by frames: {sorted(late[late > 2])}"
    )
    print(f"time for one update of both views: median {np.nanmedian([one.update_ms for one in results]):.0f} ms")


def is_named(result: Result) -> bool:
    """Whether the monitor's name is that of the route; a vein of the front counts as in front of the sacrum too."""
    names = {"venous": ("venous", "presacral")}.get(result.route, (result.route,))
    return any(result.named.startswith(name) for name in names)


if __name__ == "__main__":
    main()
