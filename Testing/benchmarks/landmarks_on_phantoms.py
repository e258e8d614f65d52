"""How near landmarks, sacral slope, bone density and noise come to the exact truth of synthetic patients.

Run: python Testing/benchmarks/landmarks_on_phantoms.py [seeds ...]     (about two minutes for each seed)
Each patient is scanned twice, with slices of 1 and of 3 mm. The bones are the phantom's own labels. The uncertainties
of landmarks were calibrated on seeds 0 to 7, so other seeds judge them: 8 to 11 by default.
"""

from __future__ import annotations

import sys
from collections import defaultdict

import numpy as np

from sacroplasty.anatomy.labels import SIDES
from sacroplasty.anatomy.segment import segment_from_labels
from sacroplasty.errors import SacroplastyError
from sacroplasty.geometry import FloatArray, invert_rigid, transform_points
from sacroplasty.phantom.make import Phantom, make_phantom
from sacroplasty.phantom.patient import Patient

SLICES_MM = (1.0, 3.0)
#: The levels of a sacrum lie more than 15 mm apart: a foramen further off than this was taken for its neighbor.
_NEXT_LEVEL_MM = 10.0


def true_landmarks(phantom: Phantom) -> dict[str, FloatArray]:
    """The phantom's own landmarks and edges; endplate and hiatus are read off its shape, in the mirror plane.

    The phantom's frame begins at the axis of its bodies, not in the middle of the endplate, and its nominal hiatus is
    not where its canal in fact opens or ends. Where its crest only falls, it has no tubercle to be found.
    """
    truth = dict(phantom.landmarks)
    truth |= {f"{name}_lateral_edge": foramen.lateral_edge_ras for name, foramen in phantom.foramina.items()}
    sacrum = Patient(phantom.parameters, "none").sacrum

    def is_bone(points: FloatArray) -> FloatArray:
        x, y, z = points.astype(np.float32).T
        curved = sacrum.curved(y, z)
        canal = sacrum.canal(x, y, z, curved)
        channels = {name: sacrum.channel_field(name, x, y, z) for name in sacrum.channels}
        return sacrum.bone(x, y, z, sacrum.envelope(x, y, z, curved), canal, channels) < 0

    for name in [name for name in truth if name.startswith("median_crest")]:
        local = transform_points(invert_rigid(phantom.SacrumToRAS), truth[name])
        s, d = (float(value[0]) for value in sacrum.curved(*local[1:, None].astype(np.float32)))
        if max(sacrum.back(0.0, s - 1.5), sacrum.back(0.0, s + 1.5)) > d:
            del truth[name]
    depth = np.arange(-35.0, 10.0, 0.1)
    body = depth[is_bone(np.column_stack([0 * depth, depth, np.full_like(depth, -2.0)]))]
    truth["s1_endplate_center"] = transform_points(phantom.SacrumToRAS, [0, (body.min() + body.max()) / 2, 0])
    along = np.arange(sacrum.hiatus_mm - 25, sacrum.end_mm, 0.5)
    behind = np.arange(-15.0, 30.0, 0.25)
    hiatus = None
    for s in along:
        points = np.array([sacrum.straight(0.0, float(s), float(d)) for d in behind])
        bone = is_bone(points)
        edges = np.diff(bone.astype(int), prepend=0)
        # Body, canal, roof: two pieces of bone.
        if np.count_nonzero(edges == 1) < 2:
            break
        hiatus = points[np.nonzero(bone)[0].max()]
    if hiatus is not None:
        truth["sacral_hiatus"] = transform_points(phantom.SacrumToRAS, hiatus)
    return truth


def kind_of(name: str) -> str:
    """Landmarks of one kind are judged together."""
    if name.startswith("foramen"):
        return "lateral edges of foramina"
    return name.removesuffix("_left").removesuffix("_right")


def main(seeds: list[int]) -> None:
    found: dict[tuple[str, float], list[tuple[float, float]]] = defaultdict(list)
    slope, ala, body, noise = ([] for _ in range(4))
    miscounted, scans = [], 0
    for seed in seeds:
        for slice_mm in SLICES_MM:
            phantom = make_phantom(seed, spacing_mm=(1.0, 1.0, slice_mm))
            scans += 1
            try:
                anatomy = segment_from_labels(phantom.ct, phantom.bones)
            except SacroplastyError as error:
                print(f"seed {seed}, slices of {slice_mm:g} mm: refused: {error}")
                continue
            truth = true_landmarks(phantom)
            errors = {
                name: float(np.linalg.norm(mark.position_ras - truth[name]))
                for name, mark in anatomy.landmarks.items()
                if name in truth
            }
            shifted = any(errors.get(f"foramen_s1_{side}_lateral_edge", 0) > _NEXT_LEVEL_MM for side in SIDES)
            if shifted:
                miscounted.append(f"seed {seed} at {slice_mm:g} mm")
            for name, error in errors.items():
                if not (shifted and name.startswith(("foramen", "median", "sacral_hiatus"))):
                    found[kind_of(name), slice_mm].append((error, anatomy.landmarks[name].uncertainty_mm))
            quality = anatomy.quality
            assert quality is not None
            slope.append(quality.sacral_slope_deg - phantom.parameters.sacral_slope_deg)
            noise.append(quality.noise_hu - phantom.noise_hu)
            density = quality.bone.density
            ala += [density[f"ala_{side}"].mean_hu - phantom.ala_hu for side in SIDES if f"ala_{side}" in density]
            body += [density["l5"].mean_hu - phantom.parameters.body_hu] if "l5" in density else []
    print("landmark                    slices   n   mean  worst    RMS  stated  within 1  within 2")
    for (kind, slice_mm), pairs in sorted(found.items()):
        error, stated = np.array(pairs).T
        print(
            f"{kind:<27} {slice_mm:4g} mm {len(error):3} {error.mean():6.2f} {error.max():6.2f} "
            f"{np.sqrt(np.mean(error**2)):6.2f} {stated.mean():7.2f} {np.mean(error <= stated):9.0%} "
            f"{np.mean(error <= 2 * stated):9.0%}"
        )
    everything = np.array([pair for pairs in found.values() for pair in pairs])
    inside = [float(np.mean(everything[:, 0] <= count * everything[:, 1])) for count in (1, 2)]
    print(f"all: within 1 stated uncertainty {inside[0]:.0%}, within 2 {inside[1]:.0%} (61 % and 99 % if Gaussian)")
    print(f"levels of the foramina miscounted: {', '.join(miscounted) or 'never'}, of {scans} scans (left out above)")
    for name, values in (("sacral slope, deg", slope), ("alae, HU", ala), ("L5, HU", body), ("noise, HU", noise)):
        error = np.array(values)
        print(f"{name:<20} found minus true: mean {error.mean():6.2f}, worst {error[np.abs(error).argmax()]:6.2f}")


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or [8, 9, 10, 11])
