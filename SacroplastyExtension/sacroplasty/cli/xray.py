"""`sacroplasty xray`: a simulated X-ray of a CT."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .common import OUTPUT_FILE, json_option, progress, report

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ..xray.geometry import XrayGeometry

#: Written out, so that `--help` need not load the engine; a test holds it against the engine's views.
VIEWS = ("ap", "outlet", "inlet", "lateral", "oblique-left", "oblique-right")

_ENDINGS = (".mha", ".png")


@click.command("xray")
@click.argument("ct", type=click.Path(path_type=Path))
@click.option("--view", type=click.Choice(VIEWS), help="A named view of the sacrum [default: ap].")
@click.option("--geometry", "geometry_file", type=click.Path(path_type=Path), help="A geometry.json instead of a view.")
@click.option("--anatomy", type=click.Path(path_type=Path), help="Folder of `segment`: aims the view at this sacrum.")
@click.option("--size", type=click.IntRange(16, 4096), help="Columns of the image [default: 512, or the geometry's].")
@click.option("--series", help="DICOM series instance UID, when the folder holds several.")
@click.option("--out", required=True, type=OUTPUT_FILE, help=".mha: line integrals; .png: for the eye.")
@json_option
def command(
    ct: Path,
    view: str | None,
    geometry_file: Path | None,
    anatomy: Path | None,
    size: int | None,
    series: str | None,
    out: Path,
    as_json: bool,
) -> None:
    """Simulate an X-ray of CT and write its geometry.json beside it.

    Without --anatomy a view is centred on the middle of the CT. In AP the patient's right is on the left.
    """
    from ..errors import SacroplastyError
    from ..image import Volume, read_ct
    from ..xray.geometry import CArm, read_geometry, write_geometry
    from ..xray.project import attenuation_from_hu, line_integrals
    from ..xray.views import frame_without_anatomy

    if out.suffix not in _ENDINGS:
        raise SacroplastyError(f"--out {out} must end in {' or '.join(_ENDINGS)}")
    if geometry_file and (view or anatomy):
        raise SacroplastyError("--geometry already says where the C-arm stands; leave out --view and --anatomy")
    with progress("simulating the X-ray") as update:
        volume = read_ct(ct, series)
        update(0.4)
        if geometry_file:
            geometry = read_geometry(geometry_file)
            geometry = geometry.resampled(size) if size else geometry
        else:
            SacrumToRAS = frame_without_anatomy(volume)
            if anatomy:
                from ..anatomy.files import read_anatomy

                SacrumToRAS = read_anatomy(anatomy).SacrumToRAS
            geometry = CArm().view(view or "ap", SacrumToRAS).resampled(size or 512)
        integrals = line_integrals(Volume(attenuation_from_hu(volume.voxels), volume.IJKToRAS), geometry)
        update(0.9)
        if not integrals.any():
            raise SacroplastyError(f"no ray of this geometry meets {ct}; is it the geometry of another patient?")
        _write(integrals, geometry, out)
        write_geometry(out.with_name("geometry.json"), geometry)
        update(1.0)
    columns, rows = geometry.detector_pixels
    name = "given geometry" if geometry_file else (view or "ap")
    report(
        as_json,
        {
            "image": str(out),
            "geometry": str(out.with_name("geometry.json")),
            "view": None if geometry_file else name,
            "columns": columns,
            "rows": rows,
            "largest_line_integral": float(integrals.max()),
        },
        f"{out}: {name}, {columns} x {rows} pixels; geometry.json beside it. Simulated, not for diagnosis.",
    )


def _write(integrals: NDArray, geometry: XrayGeometry, out: Path) -> None:
    import SimpleITK as sitk

    from ..image import write_itk
    from ..xray.detector import display_image

    image = sitk.GetImageFromArray(display_image(integrals) if out.suffix == ".png" else integrals)
    image.SetSpacing(geometry.pixel_spacing_mm)
    write_itk(image, out)
