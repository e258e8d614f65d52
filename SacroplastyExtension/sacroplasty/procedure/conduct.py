"""The whole procedure, step by step, as one generator of prompts."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from ..cement.aging import CementClock
from ..cement.injection import Prescription, Request
from ..cement.interlock import Limits
from ..errors import SacroplastyError
from .case import Case
from .equipment import Clocks, Equipment
from .inject import FRAME_RATE_HZ, Fluoroscopy, inject, mix_cement, set_views, take_pictures
from .journal import Journal
from .navigate import calibrate_tool, guide_trocar, register_patient
from .prepare import Preparation
from .prompts import Prompt

#: A slow injection; cannula measurements in the literature are made at this flow.
RATE_ML_S = 0.05
#: Several times what high-viscosity cement needs through an 11G cannula at that flow, and below what syringes bear.
PRESSURE_LIMIT_KPA = 2000.0


def conduct(
    case: Case,
    landmarks: Sequence[str],
    preparation: Preparation,
    live: Fluoroscopy,
    final: Fluoroscopy,
    equipment: Equipment,
    clocks: Clocks,
    journal: Journal,
    limits: Limits | None = None,
) -> Generator[Prompt, Request | None, None]:
    """Calibrate, register, place the trocars, inject side by side, until done or stopped; the case holds the result.

    `live` are the views during the injection, `final` those of the verification.

    A stopped injection ends the treatment of all sides: what leaked once is looked at by a person first.
    An error that forbids going on ends it too and is recorded as the reason in `case.refused`. However it ends, even by
    an exception thrown in, the pump is told to stop before this returns.
    """
    limits = limits or Limits(frame_period_s=1 / FRAME_RATE_HZ)
    journal.write(clocks.procedure.now(), "procedure_started", sides=list(case.targets))
    try:
        for tool in ("Stylus", "Trocar"):
            yield from calibrate_tool(tool, case, equipment, clocks, journal)
        yield from register_patient(landmarks, case, equipment, clocks, journal)
        for side in case.targets:
            yield from guide_trocar(side, case, preparation.clearance, equipment, clocks, journal)
        yield from set_views(live, equipment, clocks, journal)
        cement = CementClock()
        for side, trajectory in case.targets.items():
            prescription = Prescription(
                side,
                trajectory.planned_volume_ml,
                other_volume_ml=case.given_ml,
                rate_ml_s=RATE_ML_S,
                pressure_limit_kpa=PRESSURE_LIMIT_KPA,
            )
            cement = yield from mix_cement(cement, expected_duration_s(prescription), clocks, journal)
            record = yield from inject(
                prescription, case, preparation, cement, live, equipment, clocks, journal, limits
            )
            if record.stopped:
                break
        yield from take_pictures(final, equipment, clocks, journal)
    except SacroplastyError as error:
        case.refused = str(error)
        journal.write(clocks.procedure.now(), "procedure_refused", reason=case.refused)
    finally:
        equipment.pump.stop(clocks.device.now())
        journal.write(clocks.procedure.now(), "procedure_ended", given_ml=case.given_ml)


def expected_duration_s(prescription: Prescription) -> float:
    """Time of an injection: flow and the pauses between steps."""
    pauses = max(0, int(-(-prescription.planned_volume_ml // prescription.step_ml)) - 1)
    return prescription.planned_volume_ml / prescription.rate_ml_s + pauses * prescription.wait_s
