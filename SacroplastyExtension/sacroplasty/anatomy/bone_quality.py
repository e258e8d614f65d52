"""Density of the cancellous bone of alae, S1 and L5 in Hounsfield units."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray, invert_rigid, transform_points
from ..image import Volume
from .alae import alar_void
from .labels import BONE_LABEL, REGION_LABEL, SIDES
from .quality import BoneQuality, Density, Hint

#: Cortex, the dense bone beneath it and partial volume are kept out by this much; more in images of large voxels [mm].
_CORTEX_MM = 4.0
#: Least volume that is measured [mL].
_SMALLEST_ML = 0.3
#: Voxels this many robust standard deviations above the median are sclerosis, not marrow.
_SCLEROSIS_SD = 3.0
#: The ellipsoid in the body of L5 fills this share of the way from its middle to each surface.
_ELLIPSOID = 0.6
#: Groups of Wagner 2016 parted at this density of L5.
L5_LIMIT_HU = 100.0
_SOURCE = "Wagner D et al, J Bone Joint Surg Am 2016 (PubMed 27053587)"


def measure_bone(
    ct: Volume,
    bones: Volume,
    regions: Volume,
    SacrumToRAS: FloatArray,
    noise_hu: float,
    refused: str = "",
    hu_offset: float = 0.0,
) -> BoneQuality:
    """Densities, alar voids and the osteoporosis hint.

    Args:
        noise_hu: standard deviation of the noise in the CT.
        refused: why the numbers of this CT say nothing about bone (contrast medium, metal); there is no hint then.
        hu_offset: what a calibration adds to the CT's numbers [HU].
    """
    margin_mm = max(_CORTEX_MM, 1.2 * float(ct.spacing_mm.max()))
    cores: dict[str, NDArray[np.bool_] | None] = {}
    for name in (*(f"ala_{side}" for side in SIDES), "body_s1"):
        mask = regions.voxels == REGION_LABEL[name]
        depth_mm, box = _depth(mask, ct)
        if box is not None:
            # Away from the region's own surface, so from cortex and from the foramina alike.
            mask[box] = depth_mm >= margin_mm
        cores[name] = mask
    cores["l5"] = _l5_core(bones, SacrumToRAS, margin_mm)
    density = {}
    for name, core in cores.items():
        if core is None or np.count_nonzero(core) * ct.voxel_volume_ml < _SMALLEST_ML:
            continue
        values = ct.voxels[core].astype(float) + hu_offset
        middle = float(np.median(values))
        spread = 1.4826 * float(np.median(np.abs(values - middle)))
        values = values[values <= middle + _SCLEROSIS_SD * spread]
        density[name] = Density(round(float(values.mean()), 1), round(float(values.std()), 1), len(values))
    void_ml = {
        name: round(float(np.count_nonzero(void)) * ct.voxel_volume_ml, 2)
        for name in (f"ala_{side}" for side in SIDES)
        if (ala := regions.voxels == REGION_LABEL[name]).any()
        for void in [alar_void(ct, ala, noise_hu, hu_offset)]
    }
    return BoneQuality(density, void_ml, hu_offset, None if refused else _osteoporosis(density), refused)


def _osteoporosis(density: dict[str, Density]) -> Hint | None:
    if "l5" not in density or not density["l5"].mean_hu < L5_LIMIT_HU:
        return None
    value = density["l5"].mean_hu
    return Hint(
        name="osteoporosis",
        side="",
        value=value,
        threshold=L5_LIMIT_HU,
        text=f"The cancellous bone of L5 has {value:.0f} HU. Sacra of people with less than 100 HU in L5 had a large "
        "zone of negative HU in the alae beside the foramina. This is no bone density test.",
        source=_SOURCE,
    )


def _depth(mask: NDArray[np.bool_], grid: Volume) -> tuple[NDArray, tuple[slice, ...] | None]:
    """Depth below the surface [mm] in the mask's bounding box, and that box."""
    from scipy import ndimage

    if not mask.any():
        return np.zeros(0), None
    # A slice of rim: the border of the image is no surface of the bone, but nothing is known beyond it either.
    box = tuple(slice(int(index.min()), int(index.max()) + 1) for index in np.nonzero(mask))
    depth = ndimage.distance_transform_edt(np.pad(mask[box], 1), sampling=grid.spacing_mm[::-1])
    return depth[1:-1, 1:-1, 1:-1], box


def _l5_core(bones: Volume, SacrumToRAS: FloatArray, margin_mm: float) -> NDArray[np.bool_] | None:
    """Ellipsoid within the vertebral body: around its deepest point, and short of its pedicles and endplates."""
    l5 = bones.voxels == BONE_LABEL["l5"]
    depth_mm, box = _depth(l5, bones)
    if box is None:
        return None
    inside = np.argwhere(l5[box])
    start = np.array([part.start for part in box])
    local = transform_points(invert_rigid(SacrumToRAS), bones.ras_of(inside + start))
    deep = depth_mm[tuple(inside.T)]
    # The deepest places of a vertebra lie in the middle of its body; pedicles and arch are thin.
    deepest = deep >= 0.9 * deep.max()
    center = local[deepest].mean(axis=0)
    offset = local - center
    tube_mm = max(3.0, float(bones.spacing_mm.max()))
    half = np.empty(3)
    for axis in range(3):
        others = [other for other in range(3) if other != axis]
        along = offset[(np.abs(offset[:, others]) <= tube_mm).all(axis=1), axis]
        if not len(along):
            return None
        # The nearer surface: on one side the canal, on the other the front.
        half[axis] = min(along.max(), -along.min())
    if not (half > margin_mm).all():
        return None
    chosen = ((offset / (half * _ELLIPSOID)) ** 2).sum(axis=1) <= 1
    chosen &= deep >= margin_mm
    core = np.zeros(l5.shape, bool)
    core[tuple((inside[chosen] + start).T)] = True
    return core
