"""The quality report as a table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..anatomy.model import Anatomy
    from ..anatomy.quality import QualityReport


def quality_table(anatomy: Anatomy) -> list[str]:
    """Lines to print: each structure with its confidence and why, then the image, bone density and what to check."""
    reasons = {} if anatomy.quality is None else anatomy.quality.reasons
    lines = [f"{'structure':<18} confidence"]
    for name, value in sorted(anatomy.confidence.items()):
        lines.append(f"{name:<18} {value:10.0%}  {reasons.get(name, '')}".rstrip())
    if anatomy.quality is not None:
        lines += _of_image(anatomy.quality)
    checks = [] if anatomy.quality is None else [check.text for check in anatomy.quality.must_check]
    return [*lines, *(f"Check: {text}" for text in dict.fromkeys([*checks, *anatomy.warnings]))]


def _of_image(quality: QualityReport) -> Iterator[str]:
    size = " x ".join(f"{part:.3g}" for part in quality.voxel_mm)
    noise = f"noise {quality.noise_hu:.0f} HU" if quality.noise_hu == quality.noise_hu else "noise not known"
    yield f"Image: voxels {size} mm, {noise}; S1 endplate at {quality.sacral_slope_deg:.0f} degrees, lying"
    if quality.dense_ml or quality.bright_fluid_ml:
        yield (
            f"Metal or cement: {quality.dense_ml:.1f} mL, {quality.dense_in_sacrum_ml:.1f} mL of it in or on the "
            f"sacrum; contrast medium in front of the sacrum: {quality.bright_fluid_ml:.1f} mL"
        )
    bone = quality.bone
    density = [f"{name} {entry.mean_hu:.0f} HU (SD {entry.sd_hu:.0f})" for name, entry in bone.density.items()]
    density += [f"below 0 HU in {name} {volume:.1f} mL" for name, volume in bone.void_ml.items()]
    if density:
        yield f"Cancellous bone: {', '.join(density)}"
    if bone.refused:
        yield f"These densities say nothing about the bone: {bone.refused}."
    for hint in (*quality.hints, *([bone.osteoporosis] if bone.osteoporosis else [])):
        yield f"Hint: {hint.text} ({hint.source})"
