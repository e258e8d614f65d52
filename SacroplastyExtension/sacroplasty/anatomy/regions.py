"""Canal, foramina, alae and vertebral bodies, painted in the straightened sacrum and brought back to the CT's grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..geometry import FloatArray
from ..image import Volume, box_around
from .canal import StraightCanal
from .foramina import LOW_CONFIDENCE, StraightForamen
from .labels import LEVELS, NERVE_BORDER, REGION_LABEL, SIDES
from .straight_image import STEP_MM, StraightImage
from .straighten import Straightening

#: A protected channel is never thinner than this, whatever the label map shows [mm].
_NARROWEST_RADIUS_MM = 3.5
#: How far open space around a foramen's axis still belongs to it, beyond the radius of its openings [mm].
_RIM_MM = 3.0
#: How far the canal may reach beyond the half width that both its sides have in common [mm] (own choice).
_BESIDE_CANAL_MM = 3.0
#: Gap between a protected region and the bone around it that is closed [mm] (own choice).
_GAP_MM = 1.5
#: Uncertainty of the endplate's plane, up to which the canal counts [mm] (own choice).
_ABOVE_ENDPLATE_MM = 0.5
#: Beside canal and foramina, a voxel of bone is sure when it has this share of the brightness of the brightest within
#: 2 mm, and of thin cortex at least: from one half on, bone fills more of it than nerve, and noise adds to that.
_SURE_SHARE, _CORTEX_NEAR_MM, _THIN_CORTEX_HU = 0.75, 2.0, 200.0
#: Noise is smoothed by this before a voxel is called sure (standard deviation) [mm].
_SMOOTHING_MM = 0.35


def paint_regions(
    image: StraightImage, foramina: dict[str, StraightForamen], canal: StraightCanal
) -> NDArray[np.uint8]:
    """Labels of `labels.REGIONS` [left, deep, down]; canal and foramina take precedence over bone regions."""
    regions = np.zeros(image.bone.shape, np.uint8)
    _paint_bodies_and_alae(regions, image, foramina, canal)
    for name, foramen in foramina.items():
        channel = _channel(image, foramen)
        regions[channel] = REGION_LABEL[name]
    # Medially the channels run into the canal; there, it is the canal.
    regions[canal.mask] = REGION_LABEL["sacral_canal"]
    free = (regions == 0) | (regions >= REGION_LABEL["ala_left"])
    regions[free & _beside_canal(image, canal)] = REGION_LABEL["sacral_canal"]
    return regions


def _beside_canal(image: StraightImage, canal: StraightCanal) -> NDArray[np.bool_]:
    """The open space inside the bone up to its walls: no canal is quite symmetric."""
    from scipy import ndimage

    sideways = np.zeros((3, 3, 3), bool)
    sideways[:, 1, 1] = True
    inside = ~image.bone & image.envelope()
    grown: NDArray[np.bool_] = ndimage.binary_dilation(
        canal.mask, sideways, iterations=int(_BESIDE_CANAL_MM / STEP_MM), mask=inside
    )
    return grown


def _channel(image: StraightImage, foramen: StraightForamen) -> NDArray[np.bool_]:
    """The open space from the anterior to the posterior opening, and at least a thin tube between them."""
    deep = image.deep_mm
    front, back = foramen.anterior.center[1], max(foramen.posterior.center[1], foramen.anterior.center[1] + 1)
    part = np.clip((deep - front) / (back - front), 0, 1)
    middle_left = foramen.anterior.center[0] + part * (foramen.posterior.center[0] - foramen.anterior.center[0])
    middle_down = foramen.anterior.center[2] + part * (foramen.posterior.center[2] - foramen.anterior.center[2])
    radius = foramen.anterior.radius_mm + part * (foramen.posterior.radius_mm - foramen.anterior.radius_mm)
    away = np.hypot(
        image.left_mm[:, None, None] - middle_left[None, :, None],
        image.down_mm[None, None, :] - middle_down[None, :, None],
    )
    within = ((deep >= front - 1) & (deep <= back + 1))[None, :, None]
    # Not seen: the whole tube of the guessed size is forbidden, bone or not.
    certain = np.full_like(radius, _NARROWEST_RADIUS_MM) if foramen.confidence > LOW_CONFIDENCE else radius
    core = within & (away <= certain[None, :, None])
    open_space = ~image.bone & image.envelope()
    free = within & open_space & ((away <= radius[None, :, None] + _RIM_MM) | _towards_canal(image, foramen))
    return _joined(core, free)


def _towards_canal(image: StraightImage, foramen: StraightForamen) -> NDArray[np.bool_]:
    """The space between the canal and the foramen, through which the nerve root comes out."""
    left, down = image.left_mm[:, None, None], image.down_mm
    beside = left * np.sign(foramen.anterior.center[0])
    low, high = sorted((foramen.anterior.center[2], foramen.posterior.center[2]))
    near = (down >= low - foramen.anterior.radius_mm) & (down <= high + foramen.posterior.radius_mm)
    return (beside > 0) & (beside <= abs(foramen.anterior.center[0])) & near


def _joined(core: NDArray[np.bool_], free: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The core and the free space that is connected with it."""
    from scipy import ndimage

    parts, _ = ndimage.label(core | free)
    touched = np.unique(parts[core])
    return np.isin(parts, touched[touched > 0])


def _paint_bodies_and_alae(
    regions: NDArray[np.uint8], image: StraightImage, foramina: dict[str, StraightForamen], canal: StraightCanal
) -> None:
    down = image.down_mm
    levels = [
        float(np.mean([foramina[f"foramen_{level}_{side}"].anterior.center[2] for side in SIDES])) for level in LEVELS
    ]
    before_canal = image.deep_mm[:, None] <= canal.center_deep_mm
    medial = np.full(image.bone.shape, True)
    for sign, side in ((1, "left"), (-1, "right")):
        inner, outer = _foraminal_lines(down, [foramina[f"foramen_{level}_{side}"] for level in LEVELS])
        beside = (image.left_mm * sign)[:, None, None]
        medial &= beside <= inner
        ala = image.bone & (beside >= outer) & (down <= levels[2])
        regions[ala] = REGION_LABEL[f"ala_{side}"]
    body = image.bone & medial & before_canal & image.below_endplate
    bounds = [-np.inf, *levels, levels[3] + (levels[3] - levels[2])]
    for number in range(1, 6):
        within = (down > bounds[number - 1]) & (down <= bounds[number])
        regions[body & within] = REGION_LABEL[f"body_s{number}"]


def _foraminal_lines(down: FloatArray, foramina: list[StraightForamen]) -> tuple[FloatArray, FloatArray]:
    """[down] distances from the mirror plane of the medial and the lateral margins of the foramina, levels joined."""
    centers = [foramen.anterior.center[2] for foramen in foramina]
    inner = [abs(foramen.anterior.center[0]) - foramen.anterior.radius_mm for foramen in foramina]
    outer = [
        max(
            abs(foramen.anterior.center[0]) + foramen.anterior.radius_mm,
            abs(foramen.posterior.center[0]) + foramen.posterior.radius_mm,
        )
        for foramen in foramina
    ]
    return np.interp(down, centers, inner), np.interp(down, centers, outer)


def onto_ct(straight: NDArray[np.uint8], image: StraightImage, curve: Straightening, ct: Volume) -> NDArray[np.uint8]:
    """Straightened labels at each voxel of the CT (nearest), 0 outside the straightened box."""
    from scipy import ndimage

    used = np.argwhere(straight > 0)
    lower, upper = used.min(axis=0), used.max(axis=0)
    axes = (image.left_mm, image.deep_mm, image.down_mm)
    edges = [np.linspace(axis[a] - 2, axis[b] + 2, 9) for axis, a, b in zip(axes, lower, upper, strict=True)]
    corners = curve.to_ras(np.stack(np.meshgrid(*edges, indexing="ij"), axis=-1)).reshape(-1, 3)
    kji = ct.kji_of(corners)
    first = np.maximum(np.floor(kji.min(axis=0)).astype(int), 0)
    last = np.minimum(np.ceil(kji.max(axis=0)).astype(int) + 1, ct.voxels.shape)
    result = np.zeros(ct.voxels.shape, np.uint8)
    origin = np.array([axis[0] for axis in axes])
    # A slab of slices at a time: fine CTs have a hundred million voxels.
    for k in range(first[0], last[0], 16):
        box = (slice(k, min(k + 16, last[0])), slice(first[1], last[1]), slice(first[2], last[2]))
        grid = np.moveaxis(np.mgrid[box], 0, -1)
        index = np.moveaxis(curve.from_ras(ct.ras_of(grid)) - origin, -1, 0)
        result[box] = ndimage.map_coordinates(straight, index, order=0, mode="constant", cval=0)
    return result


def fill_protected(
    regions: NDArray[np.uint8], sacrum: NDArray[np.bool_], ct: Volume, SacrumToRAS: FloatArray
) -> NDArray[np.uint8]:
    """Let canal and foramina reach the bone around them, up to which the 1 mm grid may have left a gap.

    Voxels between bone and a canal or foramen, within 1.5 mm or one voxel of both, join it. At the openings, where
    there is no wall, so much soft tissue counts too: their edge on the CT is unsure by a voxel. The canal stays below
    the S1 endplate. The first voxel of bone beside them that is not clearly bone becomes `nerve_border`: label maps
    often reach that far into canal and foramina.
    """
    from scipy import ndimage

    canal = REGION_LABEL["sacral_canal"]
    protected = (regions > 0) & (regions < REGION_LABEL["ala_left"])
    used = [(index.min(), index.max() + 1) for index in np.nonzero(protected)]
    box = tuple(slice(max(low - 3, 0), high + 3) for low, high in used)
    spacing = ct.spacing_mm[::-1]
    distance, nearest = ndimage.distance_transform_edt(~protected[box], sampling=spacing, return_indices=True)
    by_bone = ndimage.distance_transform_edt(~sacrum[box], sampling=spacing) <= _GAP_MM
    by_bone |= ndimage.binary_dilation(sacrum[box])
    beside = (distance <= _GAP_MM) | ndimage.binary_dilation(protected[box])
    at_foramen = regions[box][tuple(nearest)] != canal
    gap = ~protected[box] & beside & (by_bone | at_foramen) & ~sacrum[box]
    filled = regions.copy()
    part = filled[box]
    part[gap] = regions[box][tuple(axis[gap] for axis in nearest)]
    _mark_unsure_bone(part, ct.voxels[box], sacrum[box], spacing)
    at = np.argwhere(part == canal)
    ras = ct.ras_of(at + [axis.start for axis in box])
    above = (ras - SacrumToRAS[:3, 3]) @ SacrumToRAS[:3, 2] > _ABOVE_ENDPLATE_MM
    part[tuple(at[above].T)] = 0
    return filled


def _mark_unsure_bone(
    regions: NDArray[np.uint8], hounsfield: NDArray, sacrum: NDArray[np.bool_], spacing_kji_mm: FloatArray
) -> None:
    """Label the first voxel of bone beside canal and foramina where the image does not show that it is bone."""
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(hounsfield.astype(np.float32), _SMOOTHING_MM / spacing_kji_mm)
    reach = np.maximum(1, np.round(_CORTEX_NEAR_MM / spacing_kji_mm)).astype(int)
    crest = np.maximum(ndimage.maximum_filter(smooth, tuple(2 * reach + 1)), _THIN_CORTEX_HU)
    unsure = sacrum & (smooth < _SURE_SHARE * crest)
    protected = (regions > 0) & (regions < REGION_LABEL["ala_left"])
    regions[unsure & ndimage.binary_dilation(protected) & ~protected] = REGION_LABEL[NERVE_BORDER]


def border_joined(regions: Volume) -> Volume:
    """Regions whose `nerve_border` has become part of the canal or foramen that it lies at."""
    from scipy import ndimage

    border = regions.voxels == REGION_LABEL[NERVE_BORDER]
    box = box_around(border, 3)
    if box is None:
        return regions
    part = regions.voxels[box]
    open_space = (part > 0) & (part < REGION_LABEL[NERVE_BORDER])
    if not open_space.any():
        return regions
    nearest = ndimage.distance_transform_edt(
        ~open_space, sampling=regions.spacing_mm[::-1], return_distances=False, return_indices=True
    )
    joined = regions.voxels.copy()
    joined[box] = np.where(border[box], part[tuple(nearest)], part)
    return regions.like(joined)
