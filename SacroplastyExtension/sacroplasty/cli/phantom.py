"""`sacroplasty phantom`: a synthetic patient with its exact truth."""

from __future__ import annotations

from pathlib import Path

import click

from .common import OUTPUT_FOLDER, json_option, progress, report


@click.command("phantom")
@click.option("--out", "folder", type=OUTPUT_FOLDER, required=True, help="Folder for the files.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Which patient.")
@click.option(
    "--fracture",
    type=click.Choice(["none", "left", "right", "bilateral", "h"]),
    default="none",
    show_default=True,
    help="Insufficiency fracture of the alae; h adds a transverse one through S2.",
)
@click.option("--ala-hu", type=float, default=-50.0, show_default=True, help="Bone density of the alae in HU.")
@click.option(
    "--spacing", type=(float, float, float), default=(1.0, 1.0, 1.0), show_default=True, help="Voxel size i j k in mm."
)
@click.option("--noise", type=float, default=20.0, show_default=True, help="Standard deviation of the noise in HU.")
@json_option
def command(
    folder: Path,
    seed: int,
    fracture: str,
    ala_hu: float,
    spacing: tuple[float, float, float],
    noise: float,
    as_json: bool,
) -> None:
    """Make a synthetic patient: a CT of the pelvis and the exact truth about it.

    Writes ct.nrrd, bones.nrrd, regions.nrrd and truth.json into a folder. The same seed gives the same patient.
    """
    from ..phantom import make_phantom
    from ..phantom.files import write_phantom

    with progress("Making the synthetic patient") as update:
        phantom = make_phantom(
            seed, spacing_mm=spacing, ala_hu=ala_hu, noise_hu=noise, fracture=fracture, progress=update
        )
        write_phantom(phantom, folder)
    columns_rows_slices = list(phantom.ct.voxels.shape[::-1])
    summary = {
        "folder": str(folder),
        "seed": seed,
        "fracture": fracture,
        "size": columns_rows_slices,
        "spacing_mm": list(spacing),
        "sacral_slope_deg": round(phantom.parameters.sacral_slope_deg, 1),
    }
    report(
        as_json,
        summary,
        f"Synthetic patient {seed} (fracture: {fracture}) is in {folder}: "
        f"{' x '.join(map(str, columns_rows_slices))} voxels of {' x '.join(f'{s:g}' for s in spacing)} mm",
    )
