"""Cements by their times and their flow, from a data file that can be edited or replaced.

No preset is a verified product: every figure carries where it comes from and how far it can be believed. A hospital
that measures its own cement writes a document of its own and reads it with `read_presets`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from ..documents import read_document
from ..errors import DocumentError

GAS_CONSTANT_J_MOL_K = 8.314462618
ZERO_CELSIUS_K = 273.15

#: Arthroplasty cements cure twice as fast at 37 as at 25 degC (doi 10.1007/s10856-007-0125-2): 44.4 kJ/mol.
ACTIVATION_ENERGY_J_MOL = GAS_CONSTANT_J_MOL_K * math.log(2) / (1 / (ZERO_CELSIUS_K + 25) - 1 / (ZERO_CELSIUS_K + 37))

#: Viscosity that three arthroplasty cements reached in the end (same source); no curve goes on beyond it [Pa s].
LARGEST_CONSISTENCY_PA_SN = 75_000.0

DEFAULT_PRESET = "generic-high-viscosity"

Confidence = Literal["published", "derived", "assumed"]


@dataclass(frozen=True)
class FlowPoint:
    """Power law of the cement at one age: shear stress = K * rate^n.

    Attributes:
        age_s: since mixing (or activation), at the preset's reference temperature.
        consistency_pa_sn: K in Pa s^n.
        flow_index: n; below 1 is shear thinning.
    """

    age_s: float
    consistency_pa_sn: float
    flow_index: float


@dataclass(frozen=True)
class PowerLawFluid:
    """Cement at one moment, as a pipe sees it: K in Pa s^n and the dimensionless n."""

    consistency_pa_sn: float
    flow_index: float


@dataclass(frozen=True)
class Source:
    """Where a figure comes from, and how far it can be believed."""

    text: str
    confidence: Confidence


@dataclass(frozen=True)
class Activation:
    """A cement that is heated on its way to the patient, which starts the clock of what has been heated.

    Attributes:
        temperature_c: of the cement that leaves the heater.
        reservoir_until_s: how long after mixing the unheated cement can still be used.
    """

    temperature_c: float
    reservoir_until_s: float


@dataclass(frozen=True)
class CementPreset:
    """The times and flow of one cement at `reference_c`, counted from the start of mixing (or of activation).

    Attributes:
        key, name: for documents and for people.
        verified: whether the figures were measured on the named product.
        mixed_s, working_from_s, working_until_s: ends of mixing and waiting, and of the working time.
        flow: the power law over age, at least two points in order of age.
        activation_energy_j_mol: lowest and highest that is credible. Cement warmer than `reference_c` ages by the
            highest, cooler cement by the lowest, so that what is not known makes it older.
        activation: None for cement that sets by itself.
        sources: by the name of the figure.
    """

    key: str
    name: str
    verified: bool
    reference_c: float
    mixed_s: float
    working_from_s: float
    working_until_s: float
    flow: tuple[FlowPoint, ...]
    activation_energy_j_mol: tuple[float, float] = (ACTIVATION_ENERGY_J_MOL, ACTIVATION_ENERGY_J_MOL)
    activation: Activation | None = None
    sources: Mapping[str, Source] = field(default_factory=dict)

    def rate_factor(self, temperature_c: float) -> float:
        """How many times as fast this cement ages at `temperature_c` as at `reference_c` (Arrhenius)."""
        inverse = 1 / (temperature_c + ZERO_CELSIUS_K) - 1 / (self.reference_c + ZERO_CELSIUS_K)
        low, high = self.activation_energy_j_mol
        return math.exp(-(high if inverse < 0 else low) / GAS_CONSTANT_J_MOL_K * inverse)

    def fluid(self, age_s: float) -> PowerLawFluid:
        """The power law at an equivalent age: ln K and n linear between the points, ln K also beyond the last ones.

        NaN for an age that is none. K goes on to `LARGEST_CONSISTENCY_PA_SN`; n stays at that of the outer points.
        """
        if not age_s >= 0:
            return PowerLawFluid(math.nan, math.nan)
        ages = np.array([point.age_s for point in self.flow])
        log_k = np.log([point.consistency_pa_sn for point in self.flow])
        piece = int(np.clip(np.searchsorted(ages, age_s) - 1, 0, len(ages) - 2))
        slope = (log_k[piece + 1] - log_k[piece]) / (ages[piece + 1] - ages[piece])
        at_age = min(log_k[piece] + slope * (age_s - ages[piece]), math.log(LARGEST_CONSISTENCY_PA_SN))
        return PowerLawFluid(math.exp(at_age), float(np.interp(age_s, ages, [point.flow_index for point in self.flow])))

    def growth_per_s(self, age_s: float) -> float:
        """Rate at which ln K grows at an equivalent age, in 1/s of equivalent time; NaN for an age that is none."""
        before, after = self.fluid(max(0.0, age_s - 5.0)), self.fluid(age_s + 5.0)
        return math.log(after.consistency_pa_sn / before.consistency_pa_sn) / (age_s + 5.0 - max(0.0, age_s - 5.0))


@cache
def load_presets() -> Mapping[str, CementPreset]:
    """The presets of this package, by key."""
    with resources.as_file(resources.files("sacroplasty").joinpath("cement", "cements.json")) as built_in:
        return read_presets(built_in)


def default_preset() -> CementPreset:
    """The preset taken where nobody chose one."""
    return load_presets()[DEFAULT_PRESET]


def read_presets(path: Path) -> dict[str, CementPreset]:
    """The presets of a document (`cements.json`), by key.

    Raises:
        DocumentError: for a file that is none, has fields that are not known, or a cement that cannot be, by name.
    """
    document = read_document(path, "cements")
    return {key: _preset(key, record, str(path)) for key, record in document["cements"].items()}


def read_preset(path: Path) -> CementPreset:
    """The only preset of a document.

    Raises:
        DocumentError: also when the document holds several.
    """
    presets = read_presets(path)
    if len(presets) != 1:
        raise DocumentError(f"{path} holds {len(presets)} cements ({', '.join(presets)}); choose one by its name")
    return next(iter(presets.values()))


def _preset(key: str, record: Mapping, where: str) -> CementPreset:
    figures = {name: one["value"] for name, one in record["figures"].items()}
    rows = figures["flow"]
    preset = CementPreset(
        key=key,
        name=record["name"],
        verified=record["verified"],
        reference_c=float(figures["reference_c"]),
        mixed_s=float(figures["mixed_s"]),
        working_from_s=float(figures["working_from_s"]),
        working_until_s=float(figures["working_until_s"]),
        flow=tuple(FlowPoint(*map(float, row)) for row in rows),
        activation_energy_j_mol=_pair(figures["activation_energy_kj_mol"]),
        activation=(
            Activation(float(figures["activation"]["temperature_c"]), float(figures["activation"]["reservoir_until_s"]))
            if "activation" in figures
            else None
        ),
        sources={name: Source(one["source"], one["confidence"]) for name, one in record["figures"].items()},
    )
    if not preset.mixed_s <= preset.working_from_s < preset.working_until_s:
        raise DocumentError(f"{where}: mixing, waiting and working of {key!r} do not follow each other in time")
    if not all(point.consistency_pa_sn > 0 and 0 < point.flow_index <= 1.5 for point in preset.flow):
        raise DocumentError(f"{where}: a consistency of {key!r} is not above 0, or a flow index not within 0 to 1.5")
    if any(later.age_s <= earlier.age_s for earlier, later in pairwise(preset.flow)):
        raise DocumentError(f"{where}: the flow of {key!r} must be given in the order of age, each age once")
    if any(later.consistency_pa_sn < earlier.consistency_pa_sn for earlier, later in pairwise(preset.flow)):
        raise DocumentError(f"{where}: the consistency of {key!r} falls with age; cement only grows stiffer")
    if preset.activation_energy_j_mol[0] > preset.activation_energy_j_mol[1]:
        raise DocumentError(f"{where}: the lowest activation energy of {key!r} is above its highest")
    return preset


def _pair(kj_mol: list[float]) -> tuple[float, float]:
    return float(kj_mol[0]) * 1000, float(kj_mol[1]) * 1000
