"""What cement meets around a tip: loose bone, its cortex with what may be open in it, clefts, veins, what lies beyond.

The images show bone and marked fractures, but neither the permeability of the bone nor small defects of its cortex nor
its veins. Those are drawn at random for each member of an ensemble. **The figures of `Uncertainty` are assumptions**
unless a source stands beside them; none was fitted to patients. The probabilities that follow rank places and
volumes against each other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..anatomy.model import Anatomy
from ..geometry import FloatArray
from ..image import Volume
from .grid import local_grid, sample, sample_mask
from .spread import resistance_from_hu
from .zones import Zones, cancellous_bone, make_zones

#: Mean permeability of human vertebral cancellous bone along the body's axis (Baroud 2004: 4.45e-8 m2).
PERMEABILITY_MM2 = 4.45e-2

#: How far a vein goes on beyond the bone.
_VEIN_BEYOND_MM = 40.0

#: The route of cement that runs along a vein, which no image shows.
VEIN = "vein"


@dataclass(frozen=True)
class Uncertainty:
    """How the members of an ensemble differ.

    Attributes:
        permeability_log_sd, permeability_reach_mm: of ln(permeability) within the bone, and the distance over which it
            changes. The deviation is that between human vertebrae (4.45, SD 1.72, e-8 m2: Baroud 2004), taken to hold
            within one bone too.
        porosity: lowest and highest share of marrow in cancellous bone.
        cleft_width_mm: narrowest and widest opening of a marked fracture; its permeability is that between parallel
            plates, width^2 / 12.
        cleft_breaks_cortex: probability that a marked fracture lets cement through the cortex where it meets it.
        dense_cortex_open, thin_cortex_open: share of the cortex that is open, where it is dense (300 HU and more)
            and where it is thin or gone (100 HU and less), in patches of about `cortex_patch_mm`.
        veins_per_ml: of cancellous bone.
        vein_diameter_mm: narrowest and widest; the permeability is that of a tube, diameter^2 / 32.
        tip_sd_mm: of the tip's place along each axis, where nothing better is known.
    """

    permeability_log_sd: float = 0.37
    permeability_reach_mm: float = 5.0
    porosity: tuple[float, float] = (0.75, 0.92)
    cleft_width_mm: tuple[float, float] = (0.5, 3.0)
    cleft_breaks_cortex: float = 0.5
    dense_cortex_open: float = 0.02
    thin_cortex_open: float = 0.1
    cortex_patch_mm: float = 4.0
    veins_per_ml: float = 0.2
    vein_diameter_mm: tuple[float, float] = (1.0, 4.0)
    tip_sd_mm: float = 1.5


@dataclass(frozen=True)
class Medium:
    """Bone and its surroundings on one isotropic grid.

    Attributes:
        hu: CT numbers.
        cancellous: bone within the cortex, without canal and foramina.
        cortex: the shell around it.
        cleft: marked fractures, in both.
        cleft_thickness_mm: of the sheets of voxels that stand for them.
        zones: what each voxel is called, see `Zones`.
    """

    hu: Volume
    cancellous: NDArray[np.bool_]
    cortex: NDArray[np.bool_]
    cleft: NDArray[np.bool_]
    cleft_thickness_mm: float
    zones: Zones

    @property
    def grid(self) -> Volume:
        return self.hu

    @property
    def outside(self) -> NDArray[np.bool_]:
        """Everything beyond the cortex, foramina and canal included."""
        return ~(self.cancellous | self.cortex)


@dataclass(frozen=True)
class Member:
    """One way the bone may be.

    Attributes:
        region: what cement can enter.
        resistance, porosity: of each voxel.
        veins: voxels of veins beyond the cancellous bone.
        tip_shift_mm: (3,) by which the tip is elsewhere.
    """

    region: Volume
    resistance: Volume
    porosity: Volume
    veins: NDArray[np.bool_]
    tip_shift_mm: FloatArray


def make_medium(
    ct: Volume,
    anatomy: Anatomy,
    center_ras: ArrayLike,
    sides: tuple[str, ...],
    half_size_mm: float = 30.0,
    spacing_mm: float = 1.0,
) -> Medium:
    """What lies around a tip.

    Raises:
        AnatomyError: when ala or canal were not segmented.
    """
    zones = make_zones(anatomy, center_ras, sides, half_size_mm, spacing_mm)
    grid = local_grid(center_ras, half_size_mm, spacing_mm)
    sacrum = np.isin(zones.labels.voxels, [zones.names.index(name) for name in zones.names if name not in zones.routes])
    cancellous = cancellous_bone(anatomy, center_ras, half_size_mm, spacing_mm).voxels
    cleft = np.zeros(sacrum.shape, bool)
    for fracture in anatomy.fractures:
        cleft |= sample_mask(anatomy.bones.like(fracture.mask(anatomy.bones.voxels.shape)), grid)
    hu = sample(ct, grid, outside=-1000.0)
    thickness_mm = max([spacing_mm, *(fracture.thickness_mm for fracture in anatomy.fractures)])
    return Medium(grid.like(hu), cancellous, sacrum & ~cancellous, cleft & sacrum, thickness_mm, zones)


def intact(medium: Medium, porosity: float) -> Member:
    """The bone as the image shows it: an even field, a cortex without defects, clefts as permeable as bone."""
    grid = medium.grid
    return Member(
        region=grid.like(medium.cancellous),
        resistance=grid.like(resistance_from_hu(medium.hu.voxels)),
        porosity=grid.like(np.full(medium.cancellous.shape, porosity, np.float32)),
        veins=np.zeros(medium.cancellous.shape, bool),
        tip_shift_mm=np.zeros(3),
    )


def draw(
    medium: Medium, uncertainty: Uncertainty, rng: np.random.Generator, tip_covariance_mm2: FloatArray | None = None
) -> Member:
    """A member of the ensemble.

    Args:
        tip_covariance_mm2: (3, 3) of the tip's place; that of `uncertainty.tip_sd_mm` when not given.
    """
    from scipy.ndimage import binary_dilation
    from scipy.special import ndtr

    grid, shape = medium.grid, medium.cancellous.shape
    spacing_mm = float(grid.spacing_mm[0])
    covariance = uncertainty.tip_sd_mm**2 * np.eye(3) if tip_covariance_mm2 is None else tip_covariance_mm2
    field = _smooth_noise(shape, uncertainty.permeability_reach_mm / spacing_mm, rng)
    resistance = resistance_from_hu(medium.hu.voxels) * np.exp(-uncertainty.permeability_log_sd * field)
    # A sheet of marked voxels holds one cleft: plates let through width^3 / 12 for each mm of its length.
    width_mm = min(rng.uniform(*uncertainty.cleft_width_mm), medium.cleft_thickness_mm)
    of_plates = width_mm**3 / 12 / medium.cleft_thickness_mm / PERMEABILITY_MM2
    resistance[medium.cleft] = 1 / (1 / resistance[medium.cleft] + of_plates)

    share_open = np.interp(
        medium.hu.voxels, (100.0, 300.0), (uncertainty.thin_cortex_open, uncertainty.dense_cortex_open)
    )
    patches = ndtr(_smooth_noise(shape, uncertainty.cortex_patch_mm / 2 / spacing_mm, rng))
    through = medium.cortex & (patches < share_open)
    if rng.random() < uncertainty.cleft_breaks_cortex:
        through |= medium.cortex & medium.cleft
    veins = _draw_veins(medium, uncertainty, rng)
    # A tube in a voxel lets through pi diameter^4 / 128.
    diameter_mm = rng.uniform(*uncertainty.vein_diameter_mm)
    of_tube = math.pi * diameter_mm**4 / 128 / spacing_mm**2 / PERMEABILITY_MM2
    resistance[veins] = 1 / (1 / resistance[veins] + of_tube)

    beyond = veins & medium.outside
    walls = binary_dilation(beyond, np.ones((3, 3, 3))) & medium.outside & ~veins
    porosity = np.where(medium.outside, 1.0, rng.uniform(*uncertainty.porosity)).astype(np.float32)
    return Member(
        region=grid.like(medium.cancellous | through | veins | (medium.outside & ~walls)),
        resistance=grid.like(resistance.astype(np.float32)),
        porosity=grid.like(porosity),
        veins=veins & ~medium.cancellous,
        tip_shift_mm=rng.multivariate_normal(np.zeros(3), covariance),
    )


def _smooth_noise(shape: tuple[int, ...], sigma_voxels: float, rng: np.random.Generator) -> NDArray:
    """A normal random field of standard deviation 1 that changes over a distance."""
    from scipy.ndimage import gaussian_filter

    noise = gaussian_filter(rng.standard_normal(shape).astype(np.float32), sigma_voxels, mode="wrap")
    return noise / noise.std()


def _draw_veins(medium: Medium, uncertainty: Uncertainty, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Straight channels of one voxel's width from within the bone out through the nearest cortex on a random way."""
    spacing_mm = float(medium.grid.spacing_mm[0])
    veins = np.zeros(medium.cancellous.shape, bool)
    bone = np.argwhere(medium.cancellous)
    volume_ml = len(bone) * medium.grid.voxel_volume_ml
    for _ in range(rng.poisson(uncertainty.veins_per_ml * volume_ml)):
        start = bone[rng.integers(len(bone))]
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        line = np.rint(start + np.arange(0.0, 80.0 / spacing_mm, 0.5)[:, None] * direction).astype(int)
        # From one voxel to the next through faces, one axis after the other, or the cortex would close the channel.
        first = np.column_stack([line[1:, 0], line[:-1, 1:]])
        second = np.column_stack([line[1:, :2], line[:-1, 2]])
        way = np.stack([line[:-1], first, second], axis=1).reshape(-1, 3)
        within = ((way >= 0) & (way < medium.cancellous.shape)).all(axis=1)
        way = way[: int(np.argmin(within))] if not within.all() else way
        beyond = np.flatnonzero(medium.outside[tuple(way.T)])
        # Six places on the way for each voxel's length.
        end = beyond[0] + math.ceil(6 * _VEIN_BEYOND_MM / spacing_mm) if beyond.size else len(way)
        veins[tuple(way[:end].T)] = True
    return veins
