"""From a CT file to a folder of results: reads, segments, plans, rehearses, verifies, reports."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib import resources
from pathlib import Path

import numpy as np

from ..anatomy.bone_sources import BoneSource, find_bones
from ..anatomy.confirmation import confirm, to_confirm
from ..anatomy.landmarks import touchable
from ..anatomy.segment import find_structures
from ..documents import write_document
from ..errors import SacroplastyError
from ..files import staged_directory
from ..image import read_ct
from ..planning.context import PlanningContext
from ..planning.search import plan_trajectories
from ..procedure.case import Case
from ..procedure.journal import Journal
from ..procedure.prepare import prepare
from ..procedure.report import Report
from ..sample import fetch_sample
from .results import verify, write_results
from .run import choose_targets, rehearse
from .scenario import Scenario, read_scenario
from .truth import make_world, true_cement, true_outcome

#: Called with step, text and fraction done.
Display = Callable[[str, str, float], None]


def rehearse_case(
    ct: Path | None,
    labels: Path | None,
    series: str | None,
    out: Path,
    scenario: str,
    seed: int,
    speed: float,
    first_port: int,
    display: Display,
) -> Report:
    """Rehearse on a CT with its label map, or on the sample patient, and write everything into `out`.

    Raises:
        SacroplastyError: for input that no procedure can be planned on; nothing is left behind then.
    """
    events = _find_scenario(scenario)
    if ct is None:
        display("sample", "Fetching the sample patient", 0.0)
        sample = fetch_sample()
        ct, labels = sample.ct, sample.labels
    display("anatomy", "Reading the CT", 0.0)
    image = read_ct(ct, series)
    labelled = find_bones(image, BoneSource(labels=labels), partial(display, "anatomy", "Bones"))
    anatomy = find_structures(image, labelled, partial(display, "anatomy", "Canal, foramina, alae"))
    # Where a person would look at what is uncertain and confirm it, the rehearsal does, and says so.
    unsure = to_confirm(anatomy, events.sides)
    anatomy = confirm(anatomy, unsure)
    plan = plan_trajectories(
        PlanningContext(image, anatomy, exact_labels=True),
        events.sides,
        progress=partial(display, "plan", "Searching trajectories"),
    )
    case = Case(image, anatomy, plan, choose_targets(plan, events))
    landmarks = touchable(anatomy.landmarks)
    preparation = prepare(
        case, partial(display, "preparation", "Distances and zones around the targets"), exact_labels=True
    )
    with staged_directory(out) as stage, tempfile.TemporaryDirectory(prefix="sacroplasty-world-") as place:
        world = make_world(Path(place), case, landmarks, events, seed)
        with Journal(stage / "journal.jsonl") as journal:
            for name in unsure:
                journal.write(
                    0.0,
                    "structure_confirmed",
                    by="simulated person",
                    structure=name,
                    confidence=anatomy.confidence[name],
                )
            result = rehearse(
                case,
                landmarks,
                preparation,
                world,
                events,
                journal,
                seed,
                speed,
                first_port,
                show=lambda prompt: display(prompt.step, prompt.text, prompt.fraction),
            )
        display("verification", "Post-operative CT", 0.1)
        verification = verify(case, true_cement(world), np.random.default_rng([seed, 3]))
        truth = true_outcome(world, case)
        write_document(
            stage / "truth.json",
            "truth",
            {"coordinateSystem": "RAS", "sides": {s: asdict(t) for s, t in truth.items()}},
        )
        display("report", "Pictures, scene and report", 0.2)
        facts = {
            "CT": f"{Path(ct).name}, {' x '.join(map(str, image.voxels.shape[::-1]))} voxels of "
            f"{' x '.join(f'{size:.2g}' for size in image.spacing_mm)} mm",
            "Anatomy": anatomy.method,
            "Confirmed by the simulated person": ", ".join(unsure) or "nothing had to be",
            "Seed": str(seed),
            "Speed": f"{speed:g} times life",
        }
        report = write_results(stage, result, verification, truth, events, facts)
    return report


def _find_scenario(name: str) -> Scenario:
    packaged = resources.files("sacroplasty.rehearsal").joinpath("scenarios", f"{name}.json")
    if packaged.is_file():
        with resources.as_file(packaged) as path:
            return read_scenario(path)
    if not Path(name).exists():
        raise SacroplastyError(f"there is no scenario {name}; give a scenario document, or one of normal, leak")
    return read_scenario(Path(name))
