"""How near the C-arm views found from the anatomy come to those of the exact shape of synthetic patients.

Run: python Testing/benchmarks/view_angles.py [--seeds 1001 1201] [--voxel 1.25 1.25 1.25] [--spoiled HOW] [--keep DIR]
Each patient: the phantom's own bone labels on a grid, from them canal, foramina and frame by our own code, from these
the views. The truth knows nothing of that: rays are sent through the phantom's implicit surfaces (no voxels), and the
beam whose least open foramen is the most open is searched anew. Endplate, mirror plane and front are the generator's.
About 20 s for each patient; --keep stores the anatomies, so that a second run takes 5 s for each.
"""

from __future__ import annotations

import argparse
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from anatomy_on_phantoms import SPOILED, spoiled

from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.errors import SacroplastyError
from sacroplasty.geometry import FloatArray, angle_between_deg, transform_points, unit
from sacroplasty.phantom.make import make_phantom
from sacroplasty.phantom.parameters import draw_parameters
from sacroplasty.phantom.patient import Patient
from sacroplasty.phantom.sacrum import BODY_ENDS_MM
from sacroplasty.xray.geometry import CArm
from sacroplasty.xray.reach import read_range
from sacroplasty.xray.views import View, find_views

FORAMINA = tuple(f"foramen_{level}_{side}" for level in ("s1", "s2", "s3") for side in ("left", "right"))
#: Definition of the outlet, the same as in `xray.views`: a turn of 5 degrees out of the mirror plane must open 10 %.
_ASYMMETRY_COST = 0.004
_SOURCE_MM = CArm().source_to_isocenter_mm
#: The generator's surfaces are looked up on a grid of this step, rays lie this far apart, points on them so far [mm].
_FIELD_MM, _RAY_MM, _POINT_MM = 1.0, 0.6, 0.7
#: Room around a foramen that rays may pass through: left, posterior, superior [mm].
_ROOM_MM = np.array([14.0, 16.0, 16.0])
#: A view fails a patient when it leaves some foramen less than half as open as the best view does; it closes one whose
#: open share is below the other figure.
_FAILED_SHARE, _CLOSED_SHARE = 0.5, 0.05


class TrueSacrum:
    """The exact sacrum of a seed and the open area of its foramina, all in the sacrum's own frame."""

    def __init__(self, seed: int) -> None:
        self.patient = Patient(draw_parameters(seed), "none")
        sacrum = self.patient.sacrum
        self._fields = {}
        for name in FORAMINA:
            channel = sacrum.channels[name]
            low = np.minimum(channel.anterior, channel.posterior) - _ROOM_MM
            high = np.maximum(channel.anterior, channel.posterior) + _ROOM_MM
            axes = [np.arange(a, b + _FIELD_MM, _FIELD_MM, dtype=np.float32) for a, b in zip(low, high, strict=True)]
            x, y, z = np.meshgrid(*axes, indexing="ij")
            curved = sacrum.curved(y, z)
            channels = {other: sacrum.channel_field(other, x, y, z) for other in sacrum.channels}
            bone = sacrum.bone(
                x, y, z, sacrum.envelope(x, y, z, curved), sacrum.canal(x, y, z, curved), channels
            )  # fmt: skip
            self._fields[name] = low, bone, channels[name]
        middles = [(sacrum.channels[name].anterior + sacrum.channels[name].posterior) / 2 for name in FORAMINA]
        self._center = np.mean(middles, axis=0)
        self._straight = {}
        for name, middle in zip(FORAMINA, middles, strict=True):
            channel = sacrum.channels[name]
            along = unit(channel.anterior - channel.posterior)
            self._straight[name] = self._area(name, middle - _SOURCE_MM * along)

    def shares(self, direction: FloatArray) -> dict[str, float]:
        """Open share of each foramen for a beam through the middle of all of them."""
        source = self._center - _SOURCE_MM * unit(direction)
        return {name: self._area(name, source) / self._straight[name] for name in FORAMINA}

    def _area(self, name: str, source: FloatArray) -> float:
        """mm^2 of the beam at the foramen that meets the channel and no bone."""
        from scipy.ndimage import map_coordinates

        channel = self.patient.sacrum.channels[name]
        middle = (channel.anterior + channel.posterior) / 2
        half_length = float(np.linalg.norm(channel.posterior - channel.anterior)) / 2
        towards = middle - source
        distance = float(np.linalg.norm(towards))
        towards = towards / distance
        across = unit(np.cross(towards, [0.0, 0.0, 1.0]))
        upward = np.cross(towards, across)
        offsets = np.arange(-9, 9 + _RAY_MM / 2, _RAY_MM)
        aims = middle + (offsets[:, None, None] * across + offsets[None, :, None] * upward).reshape(-1, 3)
        rays = aims - source
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        # No ray that passes the middle of an opening by more than its larger half axis and a little can be open.
        for end, radii in (
            (channel.anterior, channel.anterior_radii_mm),
            (channel.posterior, channel.posterior_radii_mm),
        ):
            off = end - source - ((end - source) * rays).sum(axis=1, keepdims=True) * rays
            rays = rays[np.linalg.norm(off, axis=1) < max(radii) + 2]
        if not len(rays):
            return 0.0
        along = np.arange(distance - half_length - 11, distance + half_length + 11, _POINT_MM)
        points = source + rays[:, None, :] * along[:, None]
        low, bone, hole = self._fields[name]
        index = np.moveaxis((points - low) / _FIELD_MM, -1, 0).astype(np.float32)
        clear, inside = (
            map_coordinates(field, index, order=1, cval=30.0, prefilter=False).min(axis=1) for field in (bone, hole)
        )
        open_part = np.clip(clear / _RAY_MM + 0.5, 0, 1) * (inside < 0)
        return float(open_part.sum()) * _RAY_MM**2

    def outlet(self) -> tuple[FloatArray, float]:
        """The beam whose least open foramen is the most open, and its share."""
        from scipy.optimize import minimize

        def beam(at: FloatArray) -> FloatArray:
            aside, down = np.radians(at)
            return np.array([np.sin(aside), -np.cos(aside) * np.cos(down), np.cos(aside) * np.sin(down)])

        def cost(at: FloatArray) -> float:
            return _ASYMMETRY_COST * at[0] ** 2 - min(self.shares(beam(at)).values())

        start = min((np.array([0.0, tilt]) for tilt in np.arange(-40.0, 45.0, 4.0)), key=cost)
        simplex = start + np.array([[0.0, -1.5], [0.0, 1.5], [1.5, 0.0]])
        found = minimize(
            cost, start, method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 0.05, "fatol": 1e-4}
        )
        return beam(found.x), min(self.shares(beam(found.x)).values())

    def front(self) -> FloatArray:
        """Direction upwards along the fronts of S1 and S2 in the mirror plane, by least squares."""
        sacrum = self.patient.sacrum
        depths = np.arange(-40.0, 25.0, 0.1, dtype=np.float32)
        lowest = sacrum.straight(0.0, BODY_ENDS_MM[1] * sacrum.length_scale, 0.0)[2]
        heights = np.arange(lowest, -4.0, 1.0)
        found = []
        for z in heights:
            field = sacrum.envelope(np.zeros_like(depths), depths, np.full_like(depths, z))
            found.append(float(depths[np.argmax(field < 0)]))
        slope = np.polyfit(heights, found, 1)[0]
        return unit([0.0, slope, 1.0])


@dataclass(frozen=True)
class Figures:
    """Errors in degrees, and shares of the least open foramen: found, best, and at the mean angle."""

    outlet_deg: float
    edge_on_deg: float
    alae_deg: float
    ap_deg: float
    inlet_deg: float
    found: float
    best: float
    mean: float
    mean_outlet_deg: float
    in_reach: bool


def anatomy_of(seed: int, voxel_mm: tuple[float, ...], how: str | None, keep: Path | None) -> Anatomy | str:
    """Our own anatomy from the phantom's bone labels, or why it was refused."""
    stored = keep / f"{seed}.pickle" if keep else None
    if stored and stored.exists():
        return pickle.loads(stored.read_bytes())
    phantom = make_phantom(seed, spacing_mm=(voxel_mm[0], voxel_mm[1], voxel_mm[2]))
    bones = spoiled(phantom.bones, how, phantom) if how else phantom.bones
    result: Anatomy | str
    try:
        result = segment_from_labels(phantom.ct, bones)
    except SacroplastyError as error:
        result = str(error)
    if stored:
        stored.write_bytes(pickle.dumps(result))
    return result


def figures_of(truth: TrueSacrum, views: dict[str, View]) -> Figures:
    frame = truth.patient.SacrumToRAS
    RASToSacrum = frame[:3, :3].T
    best_beam, best = truth.outlet()
    outlet = RASToSacrum @ views["outlet"].direction_ras
    lateral = views["lateral"]
    # As the picture shows it: the ray from the source to the middle of the true endplate against its plane.
    source = CArm().pose(lateral.aim_ras, lateral.direction_ras, [0, 0, 1]).source_ras
    ray = transform_points(frame, [0.0, 0.0, 0.0]) - source
    ap = RASToSacrum @ views["ap"].direction_ras
    mean = RASToSacrum @ CArm().view("outlet", frame).view_direction_ras
    return Figures(
        outlet_deg=angle_between_deg(outlet, best_beam),
        edge_on_deg=abs(90 - angle_between_deg(ray, frame[:3, 2])),
        alae_deg=angle_between_deg(lateral.direction_ras, frame[:3, 0]),
        ap_deg=float(np.degrees(np.arcsin(abs(ap[0])))),
        inlet_deg=angle_between_deg(RASToSacrum @ views["inlet"].direction_ras, truth.front()),
        found=min(truth.shares(outlet).values()),
        best=best,
        mean=min(truth.shares(mean).values()),
        mean_outlet_deg=angle_between_deg(mean, best_beam),
        in_reach=read_range().contains(frame[:3, :3] @ best_beam),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="C-arm views against the exact shape of synthetic patients.")
    parser.add_argument("--seeds", nargs=2, type=int, default=(1001, 1201), metavar=("FIRST", "END"))
    parser.add_argument("--voxel", nargs=3, type=float, default=(1.25, 1.25, 1.25), metavar=("I", "J", "K"))
    parser.add_argument("--spoiled", choices=SPOILED, help="damage the labels as those of networks are")
    parser.add_argument("--keep", type=Path, help="folder of anatomies, read and filled")
    parser.add_argument("--verbose", action="store_true", help="one line for each patient")
    given = parser.parse_args()
    if given.keep:
        given.keep.mkdir(parents=True, exist_ok=True)
    rows, refused, unmeasured = [], [], []
    for seed in range(*given.seeds):
        anatomy = anatomy_of(seed, given.voxel, given.spoiled, given.keep)
        if isinstance(anatomy, str):
            refused.append(f"{seed}: {anatomy}")
            continue
        views = find_views(anatomy)
        unmeasured += [f"{seed} {name}: {view.note}" for name, view in views.items() if not view.measured]
        rows.append(figures_of(TrueSacrum(seed), views))
        if given.verbose:
            print(seed, rows[-1], views["outlet"].note, flush=True)
    print(f"{len(rows)} patients of {given.voxel} mm, labels {given.spoiled or 'exact'}; {len(refused)} refused")
    for line in (*refused, *unmeasured):
        print("  " + line)
    print("view, error in degrees                       median   95 %  worst  above 2")
    for text, key in (
        ("outlet: direction of most open foramina", "outlet_deg"), ("lateral: endplate off edge-on", "edge_on_deg"),
        ("lateral: alae off superposition", "alae_deg"), ("AP: off the mirror plane", "ap_deg"),
        ("inlet: off the fronts of S1 and S2", "inlet_deg"), ("outlet at the mean angle", "mean_outlet_deg"),
    ):  # fmt: skip
        values = np.array([getattr(row, key) for row in rows])
        print(
            f"{text:<44} {np.median(values):6.2f} {np.percentile(values, 95):6.2f} {values.max():6.2f} "
            f"{np.count_nonzero(values > 2):8d}"
        )
    for text, key in (("found", "found"), ("best", "best"), ("mean angle", "mean")):
        values = np.array([getattr(row, key) for row in rows])
        print(f"least open foramen, {text:<12} median {np.median(values):.2f}, least {values.min():.2f}")
    for text, key in (("found view", "found"), ("mean angle", "mean")):
        failed = sum(getattr(row, key) < _FAILED_SHARE * row.best for row in rows)
        closed = sum(getattr(row, key) < _CLOSED_SHARE <= row.best for row in rows)
        print(
            f"{text}: some foramen less than half as open as it can be in {failed} of {len(rows)} "
            f"({failed / len(rows):.0%}), closed in {closed} ({closed / len(rows):.0%})"
        )
    print(f"best outlet within the default reach: {sum(row.in_reach for row in rows)} of {len(rows)}")


if __name__ == "__main__":
    main()
