"""How near canal, foramina and frame come to the exact truth of synthetic patients.

Run: python Testing/benchmarks/anatomy_on_phantoms.py [--quick] [--spoiled] [--bones atlas] [--plans] [seeds ...]
The bones are the phantom's own labels, so this measures what is derived from them, not the bone segmentation. With
--spoiled the labels are damaged first as those of networks are. About 30 s for each patient.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sacroplasty.anatomy.bone_sources import BoneSource, find_bones
from sacroplasty.anatomy.labels import BONE_LABEL, SIDES
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.segment import find_structures, segment_from_labels
from sacroplasty.errors import SacroplastyError
from sacroplasty.geometry import angle_between_deg
from sacroplasty.image import Volume
from sacroplasty.phantom.make import Phantom, make_phantom
from sacroplasty.planning.context import PlanningContext
from sacroplasty.planning.search import plan_trajectories

#: Labels of regions that are protected: canal and foramina.
_FIRST_UNPROTECTED = 31
#: Voxel sizes, noise and fractures, dealt to the seeds in turn.
_SPACINGS_MM = (
    (1.0, 1.0, 1.0), (0.8, 0.8, 0.8), (0.8, 0.8, 1.5), (0.9, 0.9, 2.0), (1.5, 1.5, 1.5), (0.8, 0.8, 3.0),
    (2.0, 2.0, 2.0), (1.0, 1.0, 3.0),
)  # fmt: skip
_NOISE_HU = (20.0, 10.0, 40.0)
_FRACTURES = ("none", "left", "none", "bilateral", "right", "h")
SEEDS = tuple(range(1, 17))
_QUICK_SEEDS = (5, 7)
#: Ways in which label maps of networks are wrong: what is done to the sacrum's label. One voxel is taken or added.
SPOILED = ("eroded", "dilated", "smoothed", "filled")


@dataclass(frozen=True)
class Figures:
    """Errors of one anatomy: of openings by kind, of all openings together, and of the protected volume."""

    anterior_mm: NDArray
    posterior_mm: NDArray
    edge_mm: NDArray
    width_mm: NDArray
    height_mm: NDArray
    normal_deg: NDArray
    seen: int
    canal_dice: float
    missed_percent: float
    frame_deg: float


def case_of(seed: int) -> dict:
    """Arguments of `make_phantom` for a seed."""
    return {
        "spacing_mm": _SPACINGS_MM[(seed - 1) % len(_SPACINGS_MM)],
        "noise_hu": _NOISE_HU[(seed - 1) % len(_NOISE_HU)],
        "fracture": _FRACTURES[(seed - 1) % len(_FRACTURES)],
        "ala_hu": -50.0,
    }


def figures_of(phantom: Phantom, anatomy: Anatomy) -> Figures:
    pairs = [(anatomy.foramina[name], truth) for name, truth in phantom.foramina.items()]
    openings = [(found.anterior, truth.anterior) for found, truth in pairs]
    openings += [(found.posterior, truth.posterior) for found, truth in pairs]
    off = np.array([np.linalg.norm(found.center_ras - truth.center_ras) for found, truth in openings])
    found, true = anatomy.region("sacral_canal"), phantom.regions.voxels == 1
    protected = (anatomy.regions.voxels > 0) & (anatomy.regions.voxels < _FIRST_UNPROTECTED)
    nerves = (phantom.regions.voxels > 0) & (phantom.regions.voxels < _FIRST_UNPROTECTED)
    return Figures(
        anterior_mm=off[:8],
        posterior_mm=off[8:],
        edge_mm=np.array([np.linalg.norm(found.lateral_edge_ras - truth.lateral_edge_ras) for found, truth in pairs]),
        width_mm=np.array([found.width_mm - truth.width_mm for found, truth in openings]),
        height_mm=np.array([found.height_mm - truth.height_mm for found, truth in openings]),
        normal_deg=np.array([angle_between_deg(found.normal_ras, truth.normal_ras) for found, truth in openings]),
        seen=2 * sum(anatomy.confidence[name] > 0.3 for name in phantom.foramina),
        canal_dice=2 * np.count_nonzero(found & true) / (np.count_nonzero(found) + np.count_nonzero(true)),
        missed_percent=100 * np.count_nonzero(nerves & ~protected) / np.count_nonzero(nerves),
        frame_deg=max(angle_between_deg(anatomy.SacrumToRAS[:3, i], phantom.SacrumToRAS[:3, i]) for i in range(3)),
    )


def spoiled(bones: Volume, how: str, truth: Phantom) -> Volume:
    """A label map whose sacrum is wrong as those of networks are; the other bones keep what they have."""
    from scipy import ndimage

    spacing = bones.spacing_mm[::-1]
    sacrum = bones.voxels == BONE_LABEL["sacrum"]
    if how == "filled":
        # Small holes are lost: the lower two foramina, the posterior half of S2 and the canal below S2.
        shut = np.isin(truth.regions.voxels, [13, 14, 23, 24])
        canal = np.argwhere(truth.regions.voxels == 1)
        level = truth.foramina["foramen_s2_left"].posterior.center_ras
        below = (bones.ras_of(canal) - level) @ truth.SacrumToRAS[:3, 2] < 0
        shut[tuple(canal[below].T)] = True
        changed = sacrum | shut
    elif how == "smoothed":
        distance = ndimage.distance_transform_edt(~sacrum, sampling=spacing)
        distance -= ndimage.distance_transform_edt(sacrum, sampling=spacing)
        changed = ndimage.gaussian_filter(distance, 1.5 / spacing) < 0
    else:
        changed = (ndimage.binary_erosion if how == "eroded" else ndimage.binary_dilation)(sacrum)
    free = (bones.voxels == 0) | sacrum
    return bones.like(np.where(free, changed * BONE_LABEL["sacrum"], bones.voxels).astype(np.uint8))


def _planned(phantom: Phantom, anatomy: Anatomy) -> str:
    plan = plan_trajectories(PlanningContext(phantom.ct, anatomy))
    sides = [side for side in SIDES if any(item.accepted and item.side == side for item in plan.trajectories)]
    return "+".join(sides) or "none"


def _row(name: str, figures: Figures, planned: str) -> str:
    def both(values: NDArray) -> str:
        return f"{np.abs(values).mean():.2f} / {np.abs(values).max():.2f}"

    size = np.abs(np.concatenate([figures.width_mm, figures.height_mm]))
    cells = [
        name, f"{figures.seen}", both(figures.anterior_mm), both(figures.posterior_mm), both(figures.edge_mm),
        both(size), f"{figures.normal_deg.mean():.1f}", f"{figures.canal_dice:.3f}", f"{figures.missed_percent:.2f}",
        f"{figures.frame_deg:.2f}", planned,
    ]  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _print_total(rows: list[Figures], refused: int) -> None:
    centers = np.concatenate([[*row.anterior_mm, *row.posterior_mm] for row in rows])
    sizes = np.concatenate([[*row.width_mm, *row.height_mm] for row in rows])
    dice, missed = [row.canal_dice for row in rows], [row.missed_percent for row in rows]
    lines = [
        f"{len(rows)} patients, {refused} refused",
        f"openings found: {sum(row.seen for row in rows)} of {16 * len(rows)}",
        f"centres within 1.5 mm: {np.count_nonzero(centers <= 1.5)} of {len(centers)}, mean {centers.mean():.2f}, "
        f"95 % {np.percentile(centers, 95):.2f}, worst {centers.max():.2f} mm",
        f"width and height: bias {sizes.mean():+.2f}, mean error {np.abs(sizes).mean():.2f} mm",
        f"canal Dice: mean {np.mean(dice):.3f}, worst {min(dice):.3f}",
        f"unprotected: mean {np.mean(missed):.2f}, worst {max(missed):.2f} %",
    ]
    print("; ".join(lines) + "\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Canal and foramina against synthetic patients.")
    parser.add_argument("seeds", nargs="*", type=int, help=f"default {SEEDS[0]} to {SEEDS[-1]}")
    parser.add_argument("--quick", action="store_true", help="two patients with large voxels")
    parser.add_argument("--spoiled", action="store_true", help="with labels damaged in four ways as well")
    parser.add_argument("--bones", choices=["truth", "atlas"], default="truth", help="where the bones come from")
    parser.add_argument("--plans", action="store_true", help="search trajectories too (20 s more for each patient)")
    options = parser.parse_args()
    seeds = options.seeds or (_QUICK_SEEDS if options.quick else SEEDS)
    results: dict[str, list[Figures]] = {}
    refused = dict.fromkeys(("exact", *SPOILED), 0)
    print(
        "| patient | seen | anterior, mean / worst mm | posterior | lateral edges | width and height | normals, deg "
        "| canal Dice | unprotected % | frame, deg | planned |"
    )
    print("| --- " * 11 + "|")
    for seed in seeds:
        case = case_of(seed)
        phantom = make_phantom(seed, **case)
        size = " x ".join(f"{value:g}" for value in case["spacing_mm"])
        name = f"{seed}: {size} mm, {case['noise_hu']:.0f} HU, {case['fracture']}"
        for how in ("exact", *SPOILED) if options.spoiled else ("exact",):
            bones = phantom.bones if how == "exact" else spoiled(phantom.bones, how, phantom)
            label = name if how == "exact" else f"{seed} {how}"
            try:
                if options.bones == "atlas":
                    anatomy = find_structures(phantom.ct, find_bones(phantom.ct, BoneSource("atlas")))
                else:
                    anatomy = segment_from_labels(phantom.ct, bones)
            except SacroplastyError as error:
                print(f"| {label} | refused: {error} |", flush=True)
                refused[how] += 1
                continue
            figures = figures_of(phantom, anatomy)
            results.setdefault(how, []).append(figures)
            print(_row(label, figures, _planned(phantom, anatomy) if options.plans else "-"), flush=True)
    for how, rows in results.items():
        print(f"\n{how} labels: ", end="")
        _print_total(rows, refused[how])


if __name__ == "__main__":
    main()
