"""Attenuation of tissue, steel and cement."""

from __future__ import annotations

import numpy as np
import pytest

from sacroplasty.errors import SacroplastyError
from sacroplasty.xray.materials import attenuation_from_hu, attenuation_per_mm, cement_per_mm, mixture_per_mm


@pytest.mark.parametrize(
    ("energy_kev", "per_cm"),
    # Computed apart with XrayDB (Elam tables): PMMA with 30 % barium sulfate in the powder, powder to liquid 2:1.
    [(50, 2.51), (60, 1.63), (70, 1.15)],
)
def test_cement_agrees_with_another_data_base(energy_kev: float, per_cm: float) -> None:
    assert 10 * attenuation_per_mm("cement", energy_kev) == pytest.approx(per_cm, rel=0.005)


def test_values_between_the_energies_of_the_table_agree_with_another_data_base() -> None:
    # XrayDB, mass attenuation at 65 and 75 keV in cm2/g.
    for material, density, at_65, at_75 in (
        ("water", 1.0, 0.19871, 0.18792),
        ("barium_sulfate", 4.5, 4.14662, 2.854),
        ("iron", 7.874, 0.98159, 0.69147),
    ):
        assert attenuation_per_mm(material, 65) == pytest.approx(density * at_65 / 10, rel=0.005)
        assert attenuation_per_mm(material, 75) == pytest.approx(density * at_75 / 10, rel=0.005)


def test_a_mixture_lies_between_its_parts() -> None:
    assert mixture_per_mm({"pmma": 1.0}) == pytest.approx(attenuation_per_mm("pmma"))
    assert attenuation_per_mm("pmma") < cement_per_mm(0.1) < cement_per_mm(0.3) < attenuation_per_mm("barium_sulfate")


def test_the_softer_the_beam_the_more_bone_stands_out() -> None:
    hu = np.array([0, 1559], np.int16)
    water, bone = attenuation_from_hu(hu, 70)
    # At the CT's own energy bone attenuates as its Hounsfield units say.
    assert bone / water == pytest.approx(2.559, rel=1e-3)
    ratios = [np.divide(*attenuation_from_hu(hu, energy)[::-1]) for energy in (80, 70, 60, 50)]
    assert (np.diff(ratios) > 0).all()


@pytest.mark.parametrize(("material", "energy_kev", "words"), [
    ("plaster", 60, "known are water"),
    ("water", 30, "outside 40 to 100"),
    ("water", float("nan"), "outside"),
])  # fmt: skip
def test_what_the_table_does_not_hold_is_refused(material: str, energy_kev: float, words: str) -> None:
    with pytest.raises(SacroplastyError, match=words):
        attenuation_per_mm(material, energy_kev)


def test_more_barium_sulfate_than_powder_is_refused() -> None:
    with pytest.raises(SacroplastyError, match="barium"):
        cement_per_mm(1.2)
