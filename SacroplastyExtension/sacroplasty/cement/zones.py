"""Where cement belongs around one tip, and what it is called when it goes elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..anatomy.labels import BONE_LABEL, REGION_LABEL, REGIONS
from ..anatomy.model import Anatomy
from ..errors import AnatomyError
from ..geometry import FloatArray, invert_rigid, transform_points
from ..image import Volume
from ..planning.model import Technique, target_region
from .cannula import Cannula
from .grid import grid_points, local_grid, reaching, sample, sample_mask

#: Cement between both bones of the sacroiliac joint, no farther from either, has left the sacrum through it.
_JOINT_REACH_MM = 5.0
#: Between them one bone lies this way and the other that way, at least 60 degrees apart (cosine); in front of the joint
#: both lie behind. The cleft behind the joint, between sacrum and ilium, is filled by its ligament and belongs to it.
_BETWEEN = 0.5

#: Outside the bones cement so near to the cannula's axis has come back along it.
ALONG_CANNULA_MM = 5.0
#: Around where it leaves them, what comes out spreads over the bone so far.
_ROUND_EXIT_MM = 10.0
#: The zones reach so far up the cannula from where it leaves them [mm].
_UP_CANNULA_MM = 20.0

#: Canal and foramina are named from this share of the strongest zone's votes on.
_NERVE_SHARE = 0.2

#: Thickness of the cortical shell that holds cement back.
CORTEX_MM = 1.0


@dataclass(frozen=True)
class Zones:
    """A labelled local grid: each voxel belongs to exactly one zone.

    Attributes:
        labels: uint8 on an isotropic RAS grid; an index into `names`.
        names: `planned` (what the technique fills, with its margin), `bone` (the rest of the sacrum, outside the plan
            but no leak), and the routes of leakage: `sacral_canal`, `foramen_s1_left` ..., `si_joint_left`,
            `presacral` (in front of the sacrum and above it, where L5's nerve crosses the ala), `posterior`.
        anterior_third: voxels of the planned bone in the front third of its depth.
    """

    labels: Volume
    names: tuple[str, ...]
    anterior_third: NDArray[np.bool_]

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Voxels of one zone."""
        return self.labels.voxels == self.names.index(name)

    @property
    def routes(self) -> tuple[str, ...]:
        return self.names[2:]

    def named(self, votes: FloatArray) -> int:
        """The zone (index) with most votes (n,), unless a nerve's has nearly as many: that leak is the graver one."""
        nerves = np.array([name == "sacral_canal" or name.startswith("foramen") for name in self.names])
        grave = np.where(nerves, votes, 0.0)
        return int(np.argmax(grave if grave.max() >= _NERVE_SHARE * votes.max() else votes))


def make_zones(
    anatomy: Anatomy,
    center_ras: ArrayLike,
    sides: tuple[str, ...],
    half_size_mm: float = 40.5,
    spacing_mm: float = 1.5,
    margin_mm: float = 1.0,
    technique: Technique = "short-axis",
    cannula: Cannula | None = None,
) -> Zones:
    """Zones around a tip from the segmented sacrum.

    Args:
        center_ras: middle of the local grid, usually the tip.
        sides: that are filled, `left`, `right` or both.
        margin_mm: bone this near to what is filled counts as planned. Foramina and canal never do.
        technique: that tells whether ala or body may hold cement.
        cannula: along which cement may come back.

    Raises:
        AnatomyError: when what decides between right and leak was not segmented.
    """
    from scipy.ndimage import distance_transform_edt

    filled = [target_region(technique, side) for side in sides]
    for name in ("sacral_canal", *filled):
        if not anatomy.region(name).any():
            raise AnatomyError(f"the segmentation has no {name}; leaks cannot be told from good cement without it")
    grid = local_grid(center_ras, half_size_mm, spacing_mm)
    leaves_mm = 0.0
    if cannula is not None:
        leaves_mm = _leaves_bone_mm(cannula, anatomy)
        grid = reaching(grid, cannula.tip_ras + (leaves_mm + _UP_CANNULA_MM) * cannula.towards_hub)
    sampling = (spacing_mm,) * 3
    sacrum = sample_mask(anatomy.bones.like(anatomy.bone("sacrum")), grid)
    if not sacrum.any():
        raise AnatomyError("there is no sacrum within reach of the tip; does the segmentation belong to this patient?")
    bones = sample(anatomy.bones, grid, nearest=True)
    regions = sample(anatomy.regions, grid, nearest=True)
    names = ["planned", "bone", "presacral", "posterior"]

    nearest = distance_transform_edt(~sacrum, return_distances=False, return_indices=True)
    to_sacrum_mm = (nearest - np.indices(sacrum.shape)) * spacing_mm
    behind = _behind(to_sacrum_mm, nearest, regions == REGION_LABEL["sacral_canal"], anatomy.SacrumToRAS)
    labels = np.where(behind, names.index("posterior"), names.index("presacral")).astype(np.uint8)
    labels[sacrum] = names.index("bone")

    fill = np.isin(regions, [REGION_LABEL[name] for name in filled])
    if fill.any():
        labels[sacrum & (distance_transform_edt(~fill, sampling=sampling) <= margin_mm)] = names.index("planned")
    up_cannula = np.zeros(sacrum.shape, bool) if cannula is None else _up_cannula(cannula, leaves_mm, grid, behind)
    for side in ("left", "right"):
        hip = bones == BONE_LABEL[f"hip_{side}"]
        if hip.any():
            nearest = distance_transform_edt(~hip, return_distances=False, return_indices=True)
            to_hip_mm = (nearest - np.indices(hip.shape)) * spacing_mm
            labels[~sacrum & (hip | _in_joint(to_sacrum_mm, to_hip_mm, behind & ~up_cannula))] = len(names)
            names.append(f"si_joint_{side}")
    labels[up_cannula & ~sacrum] = names.index("posterior")
    for value, name in REGIONS.items():
        here = regions == value
        if (name == "sacral_canal" or name.startswith("foramen_")) and here.any():
            labels[here] = len(names)
            names.append(name)
    return Zones(grid.like(labels), tuple(names), _front_third(grid, labels == 0, anatomy.SacrumToRAS))


def _behind(
    to_sacrum_mm: FloatArray, nearest: NDArray, canal: NDArray[np.bool_], SacrumToRAS: ArrayLike
) -> NDArray[np.bool_]:
    """Which voxels lie behind the sacrum, by the way (k, j, i) to its nearest voxel; the others lie in front."""
    RASToSacrum = np.asarray(SacrumToRAS, float)[:3, :3].T
    _, posterior, superior = np.tensordot(RASToSacrum, -to_sacrum_mm[::-1], axes=1)
    # Above the bone is behind it only behind the canal: in front of that is the ala, with L5's nerve on it.
    depth = np.tensordot(RASToSacrum[1], nearest[::-1], axes=1)
    canal_depth = np.median(depth[canal]) if canal.any() else np.inf
    behind: NDArray[np.bool_] = np.where(superior > np.abs(posterior), depth > canal_depth, posterior > 0)
    return behind


def _in_joint(to_sacrum_mm: FloatArray, to_hip_mm: FloatArray, cleft: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels between sacrum and ilium, by the ways (k, j, i) to both; in the cleft whatever is near to both."""
    from_sacrum_mm, from_hip_mm = np.linalg.norm(to_sacrum_mm, axis=0), np.linalg.norm(to_hip_mm, axis=0)
    between = (to_sacrum_mm * to_hip_mm).sum(axis=0) < _BETWEEN * from_sacrum_mm * from_hip_mm
    return (between | cleft) & (from_sacrum_mm <= _JOINT_REACH_MM) & (from_hip_mm <= _JOINT_REACH_MM)


def _up_cannula(cannula: Cannula, leaves_mm: float, grid: Volume, behind: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Voxels along the cannula from where it leaves the bones, and behind the bone around that place."""
    points = grid_points(grid)
    out = (points - cannula.tip_ras) @ cannula.towards_hub > leaves_mm
    along = cannula.distance_mm(points.reshape(-1, 3)).reshape(out.shape) <= ALONG_CANNULA_MM
    from_exit_mm = np.linalg.norm(points - cannula.tip_ras - leaves_mm * cannula.towards_hub, axis=-1)
    return (out & along) | (behind & (from_exit_mm <= _ROUND_EXIT_MM))


def _leaves_bone_mm(cannula: Cannula, anatomy: Anatomy) -> float:
    """How far up the cannula its axis is out of all bones."""
    up_mm = np.arange(0.0, cannula.length_mm, float(anatomy.bones.spacing_mm.min()) / 2)
    kji = np.rint(anatomy.bones.kji_of(cannula.tip_ras + up_mm[:, None] * cannula.towards_hub)).astype(int)
    in_image = ((kji >= 0) & (kji < anatomy.bones.voxels.shape)).all(axis=1)
    inside = anatomy.bones.voxels[tuple(kji[in_image].T)] > 0
    return float(up_mm[in_image][inside].max(initial=0.0))


def _front_third(grid: Volume, planned: NDArray[np.bool_], SacrumToRAS: ArrayLike) -> NDArray[np.bool_]:
    """The part of a mask in front of a third of its depth, which is measured at each place of breadth and height."""
    third = np.zeros(planned.shape, bool)
    if not planned.any():
        return third
    left, back, up = transform_points(invert_rigid(SacrumToRAS), grid.ras_of(np.argwhere(planned))).T
    step = 2 * float(grid.spacing_mm[0])
    column, row = (np.floor((one - one.min()) / step).astype(int) for one in (left, up))
    place = column * (row.max() + 1) + row
    front, rear = np.full(place.max() + 1, np.inf), np.full(place.max() + 1, -np.inf)
    np.minimum.at(front, place, back)
    np.maximum.at(rear, place, back)
    third[planned] = back - front[place] <= (rear - front)[place] / 3
    return third


def cancellous_bone(
    anatomy: Anatomy, center_ras: ArrayLike, half_size_mm: float = 30.0, spacing_mm: float = 1.0
) -> Volume:
    """What cement can enter around a tip: the sacrum within its cortex, without canal and foramina (boolean)."""
    from scipy.ndimage import distance_transform_edt

    grid = local_grid(center_ras, half_size_mm, spacing_mm)
    sacrum = sample_mask(anatomy.bones.like(anatomy.bone("sacrum")), grid)
    holes = [value for value, name in REGIONS.items() if name == "sacral_canal" or name.startswith("foramen_")]
    sacrum &= ~np.isin(sample(anatomy.regions, grid, nearest=True), holes)
    # Beyond the grid's border the bone goes on; only true surfaces have a cortex.
    depth = distance_transform_edt(np.pad(sacrum, 3, mode="edge"), sampling=(spacing_mm,) * 3)[3:-3, 3:-3, 3:-3]
    return grid.like(depth > CORTEX_MM + spacing_mm / 2)
