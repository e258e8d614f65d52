"""`sacroplasty xray`: a simulated X-ray of a CT, and the C-arm views of a segmented patient."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .common import OUTPUT_FILE, json_option, progress, report

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..anatomy.model import Anatomy
    from ..planning.model import Side, Trajectory
    from ..xray.geometry import XrayGeometry
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
    from ..xray.reach import direction_text, read_range
    from ..xray.views import find_views, frame_without_anatomy, score_pose, table_csv, table_text

    if (ct / "anatomy.json").is_file():
        anatomy_folder = anatomy_folder or ct
        ct = ct / "ct.nrrd"
    _check_options(out, table, view, geometry_file, anatomy_folder, overlay)
    with progress("simulating the X-ray" if out else "finding the views") as update:
        views: dict[str, View] = {}
        anatomy: Anatomy | None = None
        trajectories: dict[Side, Trajectory] = {}
        if anatomy_folder:
            anatomy, trajectories = _patient(anatomy_folder, plan_file)
            views = find_views(anatomy, trajectories, CArm(), read_range(limits), lambda done: update(0.4 * done))
        summary: dict[str, Any] = {}
        lines = []
        if table:
            _write_text(table, table_csv(views) if table.suffix == ".csv" else table_text(views) + "\n")
            summary |= {"table": str(table), "views": {name: _summary(found) for name, found in views.items()}}
            lines.append(table_text(views))
        if out:
            volume = read_ct(ct, series)
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
            update(0.5)
            integrals = line_integrals(volume.like(attenuation_from_hu(volume.voxels)), geometry)
            update(0.9)
            if not integrals.any():
                raise SacroplastyError(f"no ray of this geometry meets {ct}; is it the geometry of another patient?")
            _write(_picture(integrals, geometry, out, anatomy if overlay else None, trajectories), geometry, out)
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
        update(1.0)
    report(as_json, summary, "\n".join(lines))


def _check_options(
    out: Path | None,
    table: Path | None,
    view: str | None,
    geometry_file: Path | None,
    anatomy: Path | None,
    overlay: bool,
) -> None:
    from ..errors import SacroplastyError

    if not out and not table:
        raise SacroplastyError("say what to write: --out for an image, --table for the angles of all views")
    for option, file, endings in (("--out", out, _ENDINGS), ("--table", table, _TABLE_ENDINGS)):
        if file and file.suffix not in endings:
            raise SacroplastyError(f"{option} {file} must end in {' or '.join(endings)}")
    if not anatomy:
        if geometry_file and view:
            raise SacroplastyError("--geometry says where the C-arm stands; leave out --view, or give --anatomy")
        if table or overlay or view in PATIENT_VIEWS:
            what = "--table" if table else "--overlay" if overlay else f"--view {view}"
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


def _picture(
    integrals: NDArray, geometry: XrayGeometry, out: Path, anatomy: Anatomy | None, trajectories: dict[Side, Trajectory]
) -> NDArray:
    from ..xray.detector import display_image
    from ..xray.overlay import anatomy_surfaces, draw, outlines, trajectory_surfaces

    if out.suffix != ".png":
        return integrals
    picture = display_image(integrals)
    if anatomy is None:
        return picture
    surfaces = anatomy_surfaces(anatomy) | trajectory_surfaces(trajectories)
    return draw(picture, outlines(surfaces, geometry), geometry)


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
