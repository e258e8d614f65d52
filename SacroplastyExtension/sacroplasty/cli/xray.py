"""`sacroplasty xray`: a simulated X-ray of a CT, and the C-arm views of a segmented patient."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import OUTPUT_FILE, OUTPUT_FOLDER, json_option, progress, report

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..anatomy.model import Anatomy
    from ..planning.model import Side, Trajectory
    from ..xray.geometry import XrayGeometry
    from ..xray.overlay import Surface
    from ..xray.projectable import ProjectableVolume
    from ..xray.views import View

#: Written out, so that `--help` need not load the engine; a test holds it against the engine's views.
VIEWS = ("ap", "outlet", "inlet", "lateral", "oblique-left", "oblique-right")
#: Those that only a segmented patient has, the trocar's ones only with a plan.
PATIENT_VIEWS = (
    *("barrel-left", "perpendicular-left", "barrel-right", "perpendicular-right"),
    *("biplane-1", "biplane-2"),
)

_ENDINGS = (".mha", ".png")
_TABLE_ENDINGS = (".csv", ".txt")


@click.command("xray")
@click.argument("ct", type=click.Path(path_type=Path))
@click.option(
    "--view",
    type=click.Choice((*VIEWS, *PATIENT_VIEWS)),
    help="A view of the sacrum [default: ap]; with --geometry, the one that the pose is meant to show.",
)
@click.option("--geometry", "geometry_file", type=click.Path(path_type=Path), help="A geometry.json instead of a view.")
@click.option(
    "--anatomy",
    "anatomy_folder",
    type=click.Path(path_type=Path),
    help="Folder of `segment`: views of this very sacrum [default: CT, if it is one].",
)
@click.option(
    "--plan",
    "plan_file",
    type=click.Path(path_type=Path),
    help="Views of its trocars [default: the folder's plan.json].",
)
@click.option("--limits", type=click.Path(path_type=Path), help="How far the C-arm turns: a reachable_range document.")
@click.option("--table", type=OUTPUT_FILE, help="Angles of all views for the operator: .csv or .txt.")
@click.option("--pictures", type=OUTPUT_FOLDER, help="Folder for a picture and a geometry of every view.")
@click.option("--overlay", is_flag=True, help="Draw canal, foramina, alae, joints and plan over a .png.")
@click.option("--size", type=click.IntRange(16, 4096), help="Columns of the image [default: 512, or the geometry's].")
@click.option("--series", help="DICOM series instance UID, when the folder holds several.")
@click.option("--out", type=OUTPUT_FILE, help=".mha: line integrals; .png: for the eye.")
@json_option
def command(
    ct: Path,
    view: str | None,
    geometry_file: Path | None,
    anatomy_folder: Path | None,
    plan_file: Path | None,
    limits: Path | None,
    table: Path | None,
    pictures: Path | None,
    overlay: bool,
    size: int | None,
    series: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Simulate an X-ray of CT and write its geometry.json beside it; with --table, write the angles of all views.

    CT is an image or the folder that `sacroplasty segment` wrote. A view of a segmented patient comes from its anatomy
    and plan, else from mean angles and centred on the middle of the CT. In AP the patient's right is on the left.
    """
    from ..errors import SacroplastyError
    from ..image import read_ct
    from ..xray.geometry import CArm, read_geometry, write_geometry
    from ..xray.project import attenuation_from_hu, line_integrals
    from ..xray.projectable import ProjectableVolume
    from ..xray.reach import direction_text, read_range
    from ..xray.views import find_views, frame_without_anatomy, score_pose, table_csv, table_text

    if (ct / "anatomy.json").is_file():
        anatomy_folder = anatomy_folder or ct
        ct = ct / "ct.nrrd"
    _check_options(out, table, pictures, view, geometry_file, anatomy_folder, overlay)
    with progress("simulating the X-ray" if out else "finding the views") as update:
        views: dict[str, View] = {}
        anatomy: Anatomy | None = None
        trajectories: dict[Side, Trajectory] = {}
        if anatomy_folder:
            anatomy, trajectories = _patient(anatomy_folder, plan_file)
            views = find_views(anatomy, trajectories, CArm(), read_range(limits), lambda done: update(0.4 * done))
            if view:
                _chosen(views, view)
        summary: dict[str, Any] = {}
        lines = []
        if pictures or out:
            volume = read_ct(ct, series)
            attenuation = ProjectableVolume.of(volume.like(attenuation_from_hu(volume.voxels)))
            update(0.5)
        if out:
            if geometry_file:
                geometry = read_geometry(geometry_file)
                geometry = geometry.resampled(size) if size else geometry
                if views:
                    wanted = [_chosen(views, view)] if view else list(views.values())
                    best = min((score_pose(item, geometry) for item in wanted), key=lambda score: score.off_deg)
                    summary["score"] = {"view": best.view, "score": best.score, "off_deg": best.off_deg}
                    lines.append(f"{best.view}: {best.verdict}, {best.off_deg:.1f}° off; {best.advice}")
            elif views:
                found = _chosen(views, view or "ap")
                geometry = found.geometry.resampled(size or 512)
                lines.append(
                    f"{found.name}: {direction_text(found.beam_ras)}" + (f"; {found.note}" if found.note else "")
                )
            else:
                geometry = CArm().view(view or "ap", frame_without_anatomy(volume)).resampled(size or 512)
            integrals = line_integrals(attenuation, geometry)
            update(0.6)
            if not integrals.any():
                raise SacroplastyError(f"no ray of this geometry meets {ct}; is it the geometry of another patient?")
            surfaces = _surfaces(anatomy, trajectories) if overlay and anatomy else {}
            _write(integrals if out.suffix == ".mha" else _picture(integrals, geometry, surfaces), geometry, out)
            write_geometry(out.with_name("geometry.json"), geometry)
            columns, rows = geometry.detector_pixels
            name = "given geometry" if geometry_file else (view or "ap")
            summary |= {
                "image": str(out),
                "geometry": str(out.with_name("geometry.json")),
                "view": None if geometry_file else name,
                "columns": columns,
                "rows": rows,
                "largest_line_integral": float(integrals.max()),
            }
            lines.append(
                f"{out}: {name}, {columns} x {rows} pixels; geometry.json beside it. Simulated, not for diagnosis."
            )
        if pictures:
            surfaces = _surfaces(anatomy, trajectories) if overlay and anatomy else {}
            _write_pictures(pictures, views, attenuation, surfaces, size or 512, lambda done: update(0.6 + 0.4 * done))
            summary["pictures"] = str(pictures)
            lines.append(f"{pictures}: a picture and a geometry of each of {len(views)} views")
        if table:
            _write_text(table, table_csv(views) if table.suffix == ".csv" else table_text(views) + "\n")
            summary |= {"table": str(table), "views": {name: _summary(found) for name, found in views.items()}}
            lines.append(table_text(views))
        update(1.0)
    report(as_json, summary, "\n".join(lines))


def _check_options(
    out: Path | None,
    table: Path | None,
    pictures: Path | None,
    view: str | None,
    geometry_file: Path | None,
    anatomy: Path | None,
    overlay: bool,
) -> None:
    from ..errors import SacroplastyError

    if not (out or table or pictures):
        raise SacroplastyError("say what to write: --out for an image, --table or --pictures for all views")
    for option, file, endings in (("--out", out, _ENDINGS), ("--table", table, _TABLE_ENDINGS)):
        if file and file.suffix not in endings:
            raise SacroplastyError(f"{option} {file} must end in {' or '.join(endings)}")
    if not anatomy:
        if geometry_file and view:
            raise SacroplastyError("--geometry says where the C-arm stands; leave out --view, or give --anatomy")
        asked = {"--table": table, "--pictures": pictures, "--overlay": overlay}
        asked[f"--view {view}"] = view in PATIENT_VIEWS
        for what in (option for option, given in asked.items() if given):
            raise SacroplastyError(f"{what} needs --anatomy, the folder that `sacroplasty segment` wrote")
    if overlay and out and out.suffix != ".png":
        raise SacroplastyError("--overlay draws over a picture; let --out end in .png")


def _patient(folder: Path, plan_file: Path | None) -> tuple[Anatomy, dict[Side, Trajectory]]:
    """The segmented patient, and the best accepted trajectory of each side when there is a plan."""
    from ..anatomy.files import read_anatomy
    from ..planning.files import read_plan

    anatomy = read_anatomy(folder)
    best: dict[Side, Trajectory] = {}
    if plan_file or (folder / "plan.json").is_file():
        for trajectory in read_plan(plan_file or folder / "plan.json", anatomy.image_hash).trajectories:
            if trajectory.accepted:
                best.setdefault(trajectory.side, trajectory)
    return anatomy, best


def _chosen(views: dict[str, View], name: str) -> View:
    from ..errors import SacroplastyError

    if name not in views:
        raise SacroplastyError(f"this patient has no view {name!r}; the views are {', '.join(views)} (make a plan?)")
    return views[name]


def _summary(view: View) -> dict[str, Any]:
    from ..xray.reach import angles_of_direction

    primary, secondary = angles_of_direction(view.beam_ras)
    return {
        "primary_deg": round(primary, 2),
        "secondary_deg": round(secondary, 2),
        "out_of_reach_deg": round(view.off_deg, 2),
        "open_foramina": {name: round(share, 3) for name, share in view.open_foramina.items()},
        "measured": view.measured,
        "note": view.note,
    }


def _surfaces(anatomy: Anatomy, trajectories: dict[Side, Trajectory]) -> dict[str, Surface]:
    from ..xray.overlay import anatomy_surfaces, trajectory_surfaces

    return anatomy_surfaces(anatomy) | trajectory_surfaces(trajectories)


def _picture(integrals: NDArray, geometry: XrayGeometry, surfaces: dict[str, Surface]) -> NDArray:
    from ..xray.detector import display_image
    from ..xray.overlay import draw, outlines

    picture = display_image(integrals)
    return draw(picture, outlines(surfaces, geometry), geometry) if surfaces else picture


def _write_pictures(
    folder: Path,
    views: dict[str, View],
    attenuation: ProjectableVolume,
    surfaces: dict[str, Surface],
    columns: int,
    update: Callable[[float], None],
) -> None:
    """A picture and a geometry of each view, all or none."""
    from ..files import staged_directory
    from ..xray.geometry import write_geometry
    from ..xray.project import line_integrals

    with staged_directory(folder) as stage:
        for number, (name, view) in enumerate(views.items(), start=1):
            geometry = view.geometry.resampled(columns)
            _write(_picture(line_integrals(attenuation, geometry), geometry, surfaces), geometry, stage / f"{name}.png")
            write_geometry(stage / f"{name}.json", geometry)
            update(number / len(views))


def _write(pixels: NDArray, geometry: XrayGeometry, out: Path) -> None:
    import SimpleITK as sitk

    from ..image import write_itk

    image = sitk.GetImageFromArray(pixels, isVector=pixels.ndim == 3)
    image.SetSpacing(geometry.pixel_spacing_mm)
    write_itk(image, out)


def _write_text(path: Path, text: str) -> None:
    from ..files import atomic_file

    with atomic_file(path) as draft:
        draft.write_text(text, encoding="utf-8")
