"""How often a line that is dragged gets its clearance, color and shaft anew, beside distances from surfaces by VTK.

Run: python Testing/benchmarks/plan_dragging.py [seed]     (default 2; about a minute)
A synthetic patient of 1 mm in a headless scene. One update is all that the Planning page does while a line moves:
clearance of the whole shaft from every structure, the profile along it, and the models of shaft and margin. Beside it,
the same points measured from the surfaces of the segments by vtkImplicitPolyDataDistance, which is what is at hand in
Slicer without distance fields. Drawing is not part of either: it depends on the graphics card.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import numpy as np
import vtk

from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.phantom.make import make_phantom
from sacroplasty.planning.options import PlanOptions
from sacroplasty.scene import anatomy, nodes, planning
from sacroplasty.scene.host import HeadlessHost
from sacroplasty.scene.plan_desk import PlanDesk

_MOVES, _PEER_MOVES, _WANTED_HZ = 400, 20, 20.0


def seconds_of(moves: np.ndarray, work: Callable[[np.ndarray], object]) -> np.ndarray:
    """Time of each of the moves, after one that does not count."""
    work(moves[0])
    times = []
    for shift in moves:
        begun = time.perf_counter()
        work(shift)
        times.append(time.perf_counter() - begun)
    return np.array(times)


def surfaces(segmentation: vtk.vtkObject, names: list[str]) -> list[vtk.vtkImplicitPolyDataDistance]:
    """The closed surfaces of segments as distances."""
    segmentation.CreateClosedSurfaceRepresentation()
    found = []
    for name in names:
        mesh = segmentation.GetClosedSurfaceInternalRepresentation(name)
        if mesh is not None and mesh.GetNumberOfCells():
            distance = vtk.vtkImplicitPolyDataDistance()
            distance.SetInput(mesh)
            found.append(distance)
    return found


def tell(name: str, times: np.ndarray) -> None:
    print(
        f"{name:42s} {1 / np.median(times):8.1f} {1000 * np.median(times):8.2f} {1000 * np.percentile(times, 95):8.2f}"
    )


def main(seed: int) -> None:
    scene = HeadlessHost().scene
    phantom = make_phantom(seed, spacing_mm=(1.0, 1.0, 1.0))
    ct_node = nodes.add_volume(scene, phantom.ct, "CT")
    segmentation = anatomy.show_anatomy(scene, segment_from_labels(phantom.ct, phantom.bones), ct_node)
    desk = PlanDesk(scene)
    desk.choose(ct_node, segmentation)
    begun = time.perf_counter()
    desk.context()
    plan = desk.search(("left", "right"), PlanOptions())
    print(f"context and search of both sides: {time.perf_counter() - begun:.1f} s, {len(plan.trajectories)} lines")
    desk.select(0, movable=True)
    line = planning.plan_lines(scene)[0]
    entry, target = nodes.line_points(line)
    rng = np.random.default_rng(seed)
    moves = np.cumsum(rng.normal(0, 0.5, (_MOVES, 3)), axis=0)
    # Within reach of the structures, as a person drags.
    moves = np.clip(moves, -8, 8)

    def drag(shift: np.ndarray) -> None:
        nodes.move_line(line, entry, target + shift)
        desk.live(0)

    own = seconds_of(moves, drag)
    reading = desk.live(0)
    assert reading is not None
    peers = surfaces(segmentation, [name for name in reading.clearance_mm if not name.startswith(("si_", "anterior"))])

    def measure(shift: np.ndarray) -> float:
        along = np.linspace(0, 1, int(np.linalg.norm(target - entry) / 0.5) + 1)[:, None]
        points = entry + along * (target + shift - entry)
        return min(distance.EvaluateFunction(*point) for distance in peers for point in points)

    peer = seconds_of(moves[:_PEER_MOVES], measure)
    print(f"{'one update':42s} {'a second':>8s} {'ms':>8s} {'95 %':>8s}")
    tell(f"Planning page, {len(reading.clearance_mm)} structures and models", own)
    tell(f"VTK surfaces, {len(peers)} structures, no models", peer)
    share = 100 * float((own <= 1 / _WANTED_HZ).mean())
    ratio = np.median(peer) / np.median(own)
    print(f"updates faster than {_WANTED_HZ:.0f} a second: {share:.1f} %; ratio {ratio:.1f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
