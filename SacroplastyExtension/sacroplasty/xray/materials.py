"""How strongly tissue, steel and cement attenuate X-rays of one energy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ..errors import SacroplastyError

#: Energies of the table [keV].
_ENERGIES_KEV = (40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 100.0)

#: Mass attenuation with coherent scattering [cm2/g]: NIST XCOM (SRD 8; Berger, Hubbell et al.). Elements as XCOM gives
#: them; compounds and mixtures are sums of their elements by mass. Bone: cortical, ICRU report 44. Steel: 304 (69.5 %
#: iron, 19 % chromium, 9.5 % nickel, 2 % manganese).
_CM2_PER_G = {
    "water": (0.26829, 0.22694, 0.20588, 0.19285, 0.18366, 0.17656, 0.17073),
    "cortical_bone": (0.66557, 0.42421, 0.31483, 0.25705, 0.22289, 0.20084, 0.18554),
    "pmma": (0.23503, 0.20740, 0.19238, 0.18250, 0.17512, 0.16915, 0.16409),
    "barium_sulfate": (14.66471, 8.25200, 5.11588, 3.41655, 2.41351, 1.78094, 1.36211),
    "iron": (3.62935, 1.95734, 1.20498, 0.81638, 0.59523, 0.45976, 0.37176),
    "steel": (3.56534, 1.92440, 1.18536, 0.80392, 0.58688, 0.45387, 0.36744),
}

#: Density [g/cm3]. Bone: ICRU report 44. PMMA and barium sulfate: bulk, without pores.
DENSITY_G_CM3 = {
    "water": 1.0,
    "cortical_bone": 1.92,
    "pmma": 1.18,
    "barium_sulfate": 4.5,
    "iron": 7.874,
    "steel": 8.0,
}

#: About the mean energy of a 75 to 100 kV beam behind a pelvis.
DEFAULT_ENERGY_KEV = 60.0

#: Barium sulfate in the powder of vertebroplasty cements, by mass, and powder per liquid.
_BARIUM_SULFATE_IN_POWDER = 0.30
_POWDER_TO_LIQUID = 2.0

#: Energy that a CT at 120 kV has on average in a patient, for which Hounsfield units are turned into bone content.
_CT_ENERGY_KEV = 70.0

#: Below this a voxel is air: scanner noise in air must not add up along half a metre.
_AIR_HU = -950.0


def attenuation_per_mm(material: str, energy_kev: float = DEFAULT_ENERGY_KEV) -> float:
    """Linear attenuation [1/mm] of a material of the table, or of `cement`, at an energy.

    Between the table's energies the logarithm goes linearly with that of the energy; no absorption edge lies between.

    Raises:
        SacroplastyError: for an unknown material, or an energy outside 40 to 100 keV.
    """
    if material == "cement":
        return cement_per_mm(energy_kev=energy_kev)
    if material not in DENSITY_G_CM3:
        known = ", ".join([*DENSITY_G_CM3, "cement"])
        raise SacroplastyError(f"there is no attenuation of {material!r}; known are {known}")
    return DENSITY_G_CM3[material] * _cm2_per_g(material, energy_kev) / 10


def cement_per_mm(
    barium_sulfate_in_powder: float = _BARIUM_SULFATE_IN_POWDER, energy_kev: float = DEFAULT_ENERGY_KEV
) -> float:
    """Linear attenuation [1/mm] of bone cement without pores: PMMA with barium sulfate, powder to liquid 2:1 by mass.

    Args:
        barium_sulfate_in_powder: share of the powder's mass, 0 to 1.

    Raises:
        SacroplastyError: for a share that cannot be, or an energy outside the table.
    """
    if not 0 <= barium_sulfate_in_powder <= 1:
        raise SacroplastyError(f"{barium_sulfate_in_powder} of the powder cannot be barium sulfate; give 0 to 1")
    share = barium_sulfate_in_powder * _POWDER_TO_LIQUID / (_POWDER_TO_LIQUID + 1)
    return mixture_per_mm({"barium_sulfate": share, "pmma": 1 - share}, energy_kev)


def mixture_per_mm(shares_by_mass: Mapping[str, float], energy_kev: float = DEFAULT_ENERGY_KEV) -> float:
    """Linear attenuation [1/mm] of a mixture whose parts keep their volumes."""
    volume_cm3_per_g = sum(share / DENSITY_G_CM3[material] for material, share in shares_by_mass.items())
    per_g = sum(share * _cm2_per_g(material, energy_kev) for material, share in shares_by_mass.items())
    return per_g / volume_cm3_per_g / 10


def attenuation_from_hu(voxels: NDArray, energy_kev: float = DEFAULT_ENERGY_KEV) -> NDArray[np.float32]:
    """Linear attenuation [1/mm] of CT values for a beam of one energy, float32 of the same shape.

    Two straight lines through air (0), water and cortical bone; bone gains on water as the energy falls from the CT's
    to the C-arm's, so the second line is steeper (as in Carney et al. 2006, doi 10.1118/1.2174132, the other way
    round). Values below -950 HU, padding outside the scanned circle among them, count as air.
    """
    water, bone = (attenuation_per_mm(material, energy_kev) for material in ("water", "cortical_bone"))
    hu = np.array(voxels, np.float32)
    air = hu < _AIR_HU
    above = np.maximum(hu, 0)
    above *= np.float32((bone - water) / _CORTICAL_BONE_HU)
    np.minimum(hu, 0, out=hu)
    hu *= np.float32(water / 1000)
    hu += above
    hu += np.float32(water)
    hu[air] = 0
    return hu


def _cm2_per_g(material: str, energy_kev: float) -> float:
    if not _ENERGIES_KEV[0] <= energy_kev <= _ENERGIES_KEV[-1]:
        raise SacroplastyError(
            f"a beam energy of {energy_kev} keV is outside {_ENERGIES_KEV[0]:g} to {_ENERGIES_KEV[-1]:g}; a C-arm at "
            "75 to 100 kV has about 60 keV behind a pelvis"
        )
    return float(np.exp(np.interp(np.log(energy_kev), np.log(_ENERGIES_KEV), np.log(_CM2_PER_G[material]))))


#: Hounsfield units of cortical bone in that CT: how much more than water it attenuates, in thousandths of water.
_CORTICAL_BONE_HU = 1000 * (
    attenuation_per_mm("cortical_bone", _CT_ENERGY_KEV) / attenuation_per_mm("water", _CT_ENERGY_KEV) - 1
)

WATER_PER_MM = attenuation_per_mm("water")
CORTICAL_BONE_PER_MM = attenuation_per_mm("cortical_bone")
STEEL_PER_MM = attenuation_per_mm("steel")
CEMENT_PER_MM = cement_per_mm()
