"""How well the built-in bone segmentation finds sacrum, L5 and hips, on what it has never seen.

Run: python Testing/benchmarks/bone_segmentation.py [--only GROUP] [--quick] [--processes N] [--out FOLDER]

Groups: `phantoms` (50 synthetic patients with exact truth), `sample` (a real CT against a network's labels), `labels`
(pseudo-CTs painted from two manual label maps), `surfaces` (pseudo-CTs painted from ten pelves of the surface atlas; S1
to S3 and hips count), `disturbed` (one phantom and one pseudo-CT with contrast, metal, crops, tilts, ...), `real` (a
real CT without truth: a picture to look at), `resources` (time and memory for 512 x 512 x 300 voxels of 1 mm).
The figures of `surfaces` are independent of a method only if none of its shapes were made from those ten patients
(every third of the atlas, from the second on).
A refusal is a result and is shown with its message. Tables go to the screen, all figures to results.json, and a picture
of each case to the output folder.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ct_disturbances import DISTURBANCES
from ct_pictures import save_cuts
from numpy.typing import NDArray
from pelvis_labels import DATA, jhu_patients, jhu_pelvis, manual_pelvis
from pseudo_ct import PseudoCT, draw_look, paint
from scipy import ndimage
from segmentation_metrics import pieces, score_bones

from sacroplasty.anatomy.bones import LabelledBones
from sacroplasty.anatomy.segment import find_structures
from sacroplasty.errors import SacroplastyError
from sacroplasty.image import Volume, read_volume, write_volume

BONES = {1: "sacrum", 2: "l5", 3: "hip_left", 4: "hip_right"}
GROUPS = ("phantoms", "sample", "labels", "surfaces", "disturbed", "real", "resources")

_ALA_HU = (-50.0, 0.0, 60.0)
_FRACTURES = ("none", "left", "right", "bilateral", "h")
_NOISE_HU = (10.0, 20.0, 40.0)
_SPACINGS_MM = ((0.8, 0.8, 1.0), (0.9, 0.9, 3.0), (1.5, 1.5, 1.5), (0.8, 0.8, 2.0), (2.0, 2.0, 2.0), (3.0, 3.0, 3.0))
_LABEL_SPACINGS_MM = ((1.0, 1.0, 3.0), (0.9, 0.9, 1.5), (1.0, 1.0, 1.0))


@dataclass(frozen=True)
class Case:
    """Something to segment; it is made in the process that segments it."""

    group: str
    name: str
    number: int = 0
    other: str = ""


@dataclass(frozen=True)
class Material:
    """A CT, the truth about it as far as there is one, and what a method must do."""

    ct: Volume
    bones: Volume | None = None
    scored: NDArray[np.bool_] | None = None
    scored_bones: tuple[int, ...] = (1, 2, 3, 4)
    must: str = "segment"
    note: str = ""


@dataclass(frozen=True)
class Found:
    """What a method gave."""

    bones: Volume
    warnings: tuple[str, ...] = field(default=())


Method = Callable[[Material], Found]


def built_in(material: Material) -> Found:
    """The method that this benchmark is about; it sees the CT and nothing else."""
    from sacroplasty.anatomy.atlas import segment_bones

    found = segment_bones(material.ct)
    return Found(found.bones, found.warnings)


def stand_in(material: Material) -> Found:
    """Not a method: the truth, moved by one voxel and with the sacrum grown into its neighbors. Checks the bench."""
    if material.bones is None or not material.bones.voxels.any():
        raise SacroplastyError("there is no sacrum in this image")
    moved = np.roll(material.bones.voxels, 1, axis=2)
    moved[ndimage.binary_dilation(moved == 1)] = 1
    return Found(material.ct.like(moved))


METHODS: dict[str, Method] = {"atlas": built_in, "stand-in": stand_in}


def cases(groups: tuple[str, ...], quick: bool) -> list[Case]:
    """All cases of some groups, or a few of each."""

    def some(group: str, everything: list[Case], few: int) -> list[Case]:
        return (everything[:few] if quick else everything) if group in groups else []

    disturbances = [
        Case("disturbed", f"{name}, {base}", 3, f"{base}/{name}")
        for base in ("phantom", "labels")
        for name in DISTURBANCES
        if not (base == "labels" and DISTURBANCES[name].must == "refuse")
    ]
    patients = jhu_patients()
    return [
        *some("phantoms", [Case("phantoms", f"seed {seed}", seed) for seed in range(100, 150)], 3),
        *some("sample", [Case("sample", "sample CT, 3 mm")], 1),
        *some("labels", [Case("labels", f"patient {n % 2 + 1}, seed {n // 2}", n) for n in range(10)], 2),
        *some("surfaces", [Case("surfaces", p, n, p) for n, p in enumerate(patients[1::3][:10])], 1),
        *some("disturbed", disturbances, 4),
        *some("real", [Case("real", "soft tissue sarcoma 007")], 1),
    ]


def material_of(case: Case) -> Material:
    """Make or read what a case is about."""
    if case.group == "phantoms":
        return _phantom(case.number)
    if case.group == "sample":
        return _sample()
    if case.group == "labels":
        return _of_pseudo(_manual(case.number))
    if case.group == "surfaces":
        look = draw_look(300 + case.number)
        made = paint(jhu_pelvis(case.other), look, 300 + case.number, _LABEL_SPACINGS_MM[1 + case.number % 2])
        return _of_pseudo(made, f"ala {look.ala_hu:.0f} HU")
    if case.group == "real":
        return Material(read_volume(DATA / "ct" / "soft_tissue_sarcoma_007.nii.gz"))
    base, name = case.other.split("/")
    material = _undisturbed(base)
    if material.bones is None:
        raise ValueError("a disturbance needs labels")
    disturbance = DISTURBANCES[name]
    ct, bones = disturbance.apply(material.ct, material.bones, case.number)
    return Material(ct, bones, None, material.scored_bones, disturbance.must)


@lru_cache(maxsize=1)
def _undisturbed(base: str) -> Material:
    return _phantom(149, (1.2, 1.2, 1.5)) if base == "phantom" else _of_pseudo(_manual(1))


def _manual(number: int) -> PseudoCT:
    look = draw_look(200 + number)
    return paint(manual_pelvis(number % 2 + 1), look, 200 + number, _LABEL_SPACINGS_MM[number // 2 % 3])


def _of_pseudo(made: PseudoCT, note: str = "") -> Material:
    return Material(made.ct, made.bones, made.scored, made.scored_bones, note=note)


def _phantom(seed: int, spacing_mm: tuple[float, float, float] | None = None) -> Material:
    from sacroplasty.phantom.make import make_phantom

    n = seed - 100
    ala_hu, fracture = _ALA_HU[n % 3], _FRACTURES[n % 5]
    # Every density meets every noise and every voxel size.
    noise_hu, spacing = _NOISE_HU[(n + n // 3) % 3], spacing_mm or _SPACINGS_MM[n // 3 % len(_SPACINGS_MM)]
    made = make_phantom(seed, spacing_mm=spacing, ala_hu=ala_hu, noise_hu=noise_hu, fracture=fracture)
    size = " x ".join(f"{length:g}" for length in spacing)
    return Material(made.ct, made.bones, note=f"ala {ala_hu:.0f} HU, {fracture}, noise {noise_hu:.0f}, {size} mm")


def _sample() -> Material:
    from sacroplasty.sample import fetch_sample

    sample = fetch_sample()
    labels = read_volume(sample.labels)
    bones = np.zeros(labels.voxels.shape, np.uint8)
    for code, label in ((25, 1), (26, 1), (27, 2), (77, 3), (78, 4)):
        bones[labels.voxels == code] = label
    return Material(read_volume(sample.ct), labels.like(bones))


def run_case(case: Case, method: str, pictures: Path | None) -> dict[str, Any]:
    """Segment one case and score it. Whatever goes wrong in the method is a result."""
    material = material_of(case)
    result: dict[str, Any] = {"group": case.group, "name": case.name, "note": material.note, "must": material.must}
    began = time.perf_counter()
    try:
        found = METHODS[method](material)
    except SacroplastyError as error:
        result |= {"refused": str(error)}
        found = None
    except Exception as error:
        result |= {"failed": f"{type(error).__name__}: {error}"}
        found = None
    result["seconds"] = time.perf_counter() - began
    if found is not None:
        result["warnings"] = list(found.warnings)
        result |= _figures(found.bones, material)
    if pictures is not None:
        file = pictures / f"{case.group}-{case.name}.png".replace(" ", "-").replace(",", "").replace(":", "")
        save_cuts(file, material.ct, found.bones if found is not None else None, material.bones)
    return result


def _figures(found: Volume, material: Material) -> dict[str, Any]:
    sacrum = found.voxels == 1
    count, share = pieces(sacrum, found.voxel_volume_ml)
    figures: dict[str, Any] = {
        "sacrum_ml": np.count_nonzero(sacrum) * found.voxel_volume_ml,
        "pieces": count,
        "largest_share": share,
        "beyond_hip": _beyond_hip(found),
    }
    if material.bones is None or not material.bones.voxels.any():
        return figures
    if not found.same_grid(material.bones):
        return figures | {"failed": "the labels are not on the grid of the CT"}
    for name, score in score_bones(found, material.bones, BONES, material.scored).items():
        if name == "sacrum":
            figures["leak_hip_ml"] = score.leaked_ml["hip_left"] + score.leaked_ml["hip_right"]
            figures["leak_l5_ml"] = score.leaked_ml["l5"]
        if name in {BONES[label] for label in material.scored_bones}:
            figures[name] = {
                "dice": score.dice,
                "mean_mm": score.surface.mean_mm,
                "hd95_mm": score.surface.hd95_mm,
                "max_mm": score.surface.max_mm,
                "true_ml": score.true_volume_ml,
                "found_ml": score.volume_ml,
            }
    return figures


def _beyond_hip(bones: Volume) -> float:
    """Share of the found sacrum that lies further to the side than found hip bone of the same side and row.

    It needs no truth: between sacrum and midline there is no hip.
    """
    right_axis = 2 - int(np.argmax(np.abs(bones.IJKToRAS[0, :3])))
    voxels = np.moveaxis(bones.voxels, right_axis, 2)
    if bones.IJKToRAS[0, 2 - right_axis] > 0:
        voxels = voxels[..., ::-1]  # columns run to the left
    sacrum = voxels == 1
    if not sacrum.any():
        return math.nan
    left = np.logical_or.accumulate(voxels == 3, axis=2)
    right = np.logical_or.accumulate((voxels == 4)[..., ::-1], axis=2)[..., ::-1]
    return float(np.count_nonzero(sacrum & (left | right)) / np.count_nonzero(sacrum))


def measure_resources(method: str) -> dict[str, Any]:
    """Time and peak memory of a process that reads and segments 512 x 512 x 300 voxels of 1 mm."""
    material = _of_pseudo(paint(manual_pelvis(1), draw_look(400), 400, (1.0, 1.0, 1.0)))
    shape = (300, 512, 512)
    voxels = np.full(shape, -1000, np.int16)
    size = np.minimum(material.ct.voxels.shape, shape)
    start = (np.array(shape) - size) // 2
    inside = tuple(slice(int(a), int(a + n)) for a, n in zip(start, size, strict=True))
    voxels[inside] = material.ct.voxels[tuple(slice(0, int(n)) for n in size)]
    # Slices above and below repeat the outermost ones, so that the volume is full of body.
    voxels[: inside[0].start], voxels[inside[0].stop :] = voxels[inside[0].start], voxels[inside[0].stop - 1]
    IJKToRAS = material.ct.IJKToRAS.copy()
    IJKToRAS[:3, 3] = material.ct.ras_of([-start])[0]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ct.mha"
        write_volume(Volume(voxels, IJKToRAS), path)
        command = [sys.executable, str(Path(__file__).resolve()), "--method", method, "--child", str(path)]
        done = subprocess.run(command, capture_output=True, text=True)
    result = {"group": "resources", "name": "512 x 512 x 300, 1 mm"}
    if done.returncode:
        return result | {"failed": (done.stderr.strip().splitlines() or ["no reason given"])[-1]}
    return result | json.loads(done.stdout.splitlines()[-1])


def _child(path: Path, method: str) -> None:
    ct = read_volume(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, outcome = time.perf_counter(), {}
    try:
        found = METHODS[method](Material(ct, ct.like((ct.voxels > 200).astype(np.uint8))))
        outcome["sacrum_ml"] = float(np.count_nonzero(found.bones.voxels == 1) * ct.voxel_volume_ml)
        outcome["bones_seconds"] = time.perf_counter() - began
        sure = dict.fromkeys(BONES.values(), 1.0)
        known = LabelledBones(found.bones, np.zeros(ct.voxels.shape, bool), method, sure, found.warnings)
        find_structures(ct, known)
    except SacroplastyError as error:
        outcome["refused"] = str(error)
    seconds = time.perf_counter() - began
    used = resource.getrusage(resource.RUSAGE_SELF)
    outcome |= {
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_gb": used.ru_maxrss / 2**20,
        "before_gb": before / 2**20,
    }
    print(json.dumps(outcome))


def tables(results: list[dict[str, Any]]) -> Iterator[str]:
    """The results as markdown."""
    for group in GROUPS:
        rows = [r for r in results if r["group"] == group]
        if not rows:
            continue
        yield f"\n### {group}\n"
        if group == "resources":
            for row in rows:
                yield (
                    row.get("failed")
                    or row.get("refused")
                    or (
                        f"{row['name']}: bones {row['bones_seconds']:.1f} s, with canal, foramina and the rest "
                        f"{row['seconds']:.1f} s ({row['cpu_seconds']:.1f} s of CPU), "
                        f"peak {row['peak_gb']:.2f} GB (before {row['before_gb']:.2f} GB)"
                    )
                )
            continue
        yield "| case | sacrum Dice | mean mm | HD95 mm | max mm | L5 Dice | hips Dice | mL in hip, L5 | pieces | s | |"
        yield "| --- " * 11 + "|"
        yield from (_row(row) for row in rows)
        yield from _summary(rows)


def _row(row: dict[str, Any]) -> str:
    said = row.get("failed") or (
        f"refused: {row['refused']}" if "refused" in row else "; ".join(row.get("warnings", ()))
    )
    remarks = "; ".join(
        text for text in (row.get("note"), f"must {row['must']}" * (row["must"] != "segment"), said) if text
    )
    sacrum, l5 = row.get("sacrum", {}), row.get("l5", {})
    hips = [row[name]["dice"] for name in ("hip_left", "hip_right") if name in row]
    leak = f"{row['leak_hip_ml']:.1f}, {row['leak_l5_ml']:.1f}" if "leak_hip_ml" in row else ""
    if not sacrum and "sacrum_ml" in row:
        remarks = f"{row['sacrum_ml']:.0f} mL, {100 * row['beyond_hip']:.1f} % beyond a hip; {remarks}"
    shown = [
        row["name"],
        *(f"{sacrum[key]:.{digits}f}" if sacrum else "" for key, digits in _SHOWN),
        f"{l5['dice']:.3f}" if l5 else "",
        ", ".join(f"{value:.3f}" for value in hips),
        leak,
        str(row.get("pieces", "")),
        f"{row['seconds']:.1f}",
        remarks,
    ]
    return "| " + " | ".join(shown) + " |"


_SHOWN = (("dice", 3), ("mean_mm", 2), ("hd95_mm", 2), ("max_mm", 1))


def _summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Mean and worst of the sacrum; a case without a sacrum counts as Dice 0 wherever one had to be found."""
    asked = [row for row in rows if row["must"] == "segment" and (row["group"] != "real")]
    if len(asked) < 2:
        return
    dices = [row.get("sacrum", {}).get("dice", 0.0) for row in asked]
    scored = [row for row in asked if "sacrum" in row]
    yield (
        f"\nsacrum, {len(asked)} cases: Dice mean {np.mean(dices):.3f}, median {np.median(dices):.3f}, "
        f"worst {min(dices):.3f}"
    )
    if scored:
        hd95 = [row["sacrum"]["hd95_mm"] for row in scored]
        whole = sum(row["largest_share"] > 0.999 for row in scored)
        yield f"HD95 mean {np.mean(hd95):.2f} mm, median {np.median(hd95):.2f}, worst {max(hd95):.2f}; whole {whole}"
    if len(scored) < len(asked):
        yield f"refused or failed: {len(asked) - len(scored)}"


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description="Figures of the built-in bone segmentation.")
    parser.add_argument("--only", action="append", choices=GROUPS, help="this group; may be repeated")
    parser.add_argument("--case", help="only cases whose name holds this")
    parser.add_argument("--quick", action="store_true", help="a few cases of each group")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--method", choices=METHODS, default="atlas")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "bone-segmentation")
    parser.add_argument("--no-pictures", action="store_true")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        _child(asked.child, asked.method)
        return
    groups = tuple(asked.only or GROUPS)
    if not DATA.is_dir():
        print(f"without {', '.join(g for g in groups if g not in _NEEDS_NO_DATA)}: there is no data at {DATA}")
        groups = tuple(group for group in groups if group in _NEEDS_NO_DATA)
    chosen = [case for case in cases(groups, asked.quick) if not asked.case or asked.case in case.name]
    asked.out.mkdir(parents=True, exist_ok=True)
    pictures = None if asked.no_pictures else asked.out
    results: dict[Case, dict[str, Any]] = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(asked.processes, mp_context=context) as pool:
        running = {pool.submit(run_case, case, asked.method, pictures): case for case in chosen}
        for done in as_completed(running):
            case = running[done]
            results[case] = done.result()
            print(f"{len(results)}/{len(chosen)} {case.group}: {_row(results[case])}", file=sys.stderr, flush=True)
    ordered = [results[case] for case in chosen]
    if "resources" in groups and not asked.case:
        ordered.append(measure_resources(asked.method))
    (asked.out / "results.json").write_text(json.dumps(ordered, indent=1))
    print("\n".join(tables(ordered)))
    print(f"\npictures and results.json in {asked.out}")


_NEEDS_NO_DATA = ("phantoms", "sample")

if __name__ == "__main__":
    main()
