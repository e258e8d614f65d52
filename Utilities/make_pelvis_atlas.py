"""Make the surface atlas of the built-in bone segmentation from the average synthetic pelvis.

    python Utilities/make_pelvis_atlas.py

writes SacroplastyExtension/sacroplasty/anatomy/atlas/average_pelvis.npz. The shapes are the project's own (see
sacroplasty/phantom); no image or surface of a person is in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from sacroplasty.anatomy.atlas.template import SOLID_SACRUM
from sacroplasty.anatomy.labels import BONE_LABEL, BONES, REGION_LABEL
from sacroplasty.geometry import transform_points
from sacroplasty.image import Volume
from sacroplasty.phantom import make_phantom

OUTPUT = Path(__file__).parents[1] / "SacroplastyExtension/sacroplasty/anatomy/atlas/average_pelvis.npz"
SPACING_MM = 0.8
#: Vertices per bone: about one every 2 mm on the sacrum, whose outline matters most, every 4 mm on the hips.
VERTICES = {"sacrum": 9000, "l5": 3000, "hip_left": 3500, "hip_right": 3500, "solid_sacrum": 5000}


def main() -> None:
    phantom = make_phantom(0, spacing_mm=(SPACING_MM,) * 3, noise_hu=0, spread=0.0)
    points, triangles, bones = [], [], []
    count = 0
    masks = {label: phantom.bones.voxels == label for label in BONE_LABEL.values()}
    # Closed over canal and foramina, so that these can be told from the outside.
    channels = (phantom.regions.voxels > 0) & (phantom.regions.voxels < REGION_LABEL["ala_left"])
    masks[SOLID_SACRUM] = masks[BONE_LABEL["sacrum"]] | channels
    for label, name in {**BONES, SOLID_SACRUM: "solid_sacrum"}.items():
        vertices, corners = surface(phantom.bones, masks[label], VERTICES[name])
        points.append(vertices)
        triangles.append(corners + count)
        bones.append(np.full(len(vertices), label, np.uint8))
        count += len(vertices)
        print(f"{name}: {len(vertices)} vertices, {len(corners)} triangles")
    # Body axes (right, anterior, superior) about the middle of the S1 endplate: where a scan shows a patient lying.
    center = phantom.SacrumToRAS[:3, 3]
    placed = np.concatenate(points) - center
    lowest = phantom.bones.ras_of([[0, 0, 0]])[0, 2] - center[2]
    np.savez_compressed(
        OUTPUT,
        points_hundredth_mm=np.round(placed * 100).astype(np.int16),
        triangles=np.concatenate(triangles).astype(np.uint16),
        bone=np.concatenate(bones),
        cut=placed[:, 2] < lowest + 2.0,
        SacrumToAtlas=phantom.SacrumToRAS - np.outer([*center, 0], [0, 0, 0, 1]),
    )
    print(f"{OUTPUT.name}: {count} vertices, {OUTPUT.stat().st_size / 1000:.0f} kB")


def surface(grid: Volume, mask: np.ndarray, vertices: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices in RAS (n, 3) and triangles (m, 3), their corners in outward order, of one bone."""
    padded = np.pad(mask, 2).astype(np.float32)
    image = sitk.GetArrayFromImage(sitk.DiscreteGaussian(sitk.GetImageFromArray(padded), 0.6))
    data = vtk.vtkImageData()
    data.SetDimensions(*image.shape[::-1])
    data.GetPointData().SetScalars(numpy_to_vtk(image.ravel(), deep=True))
    contour = vtk.vtkFlyingEdges3D()
    contour.SetInputData(data)
    contour.SetValue(0, 0.5)
    contour.Update()
    whole = contour.GetOutput()
    reduce = vtk.vtkQuadricDecimation()
    reduce.SetInputData(whole)
    reduce.VolumePreservationOn()
    reduce.SetTargetReduction(1 - vertices / whole.GetNumberOfPoints())
    reduce.Update()
    mesh = reduce.GetOutput()
    ijk = vtk_to_numpy(mesh.GetPoints().GetData()).astype(float) - 2
    ras = transform_points(grid.IJKToRAS, ijk)
    corners = vtk_to_numpy(mesh.GetPolys().GetConnectivityArray()).reshape(-1, 3)
    # Corners in the order that makes the enclosed volume positive, so that normals point out of the bone.
    a, b, c = (ras[corners[:, n]] for n in range(3))
    if np.einsum("ij,ij->", a, np.cross(b, c)) < 0:
        corners = corners[:, ::-1]
    return ras, corners


if __name__ == "__main__":
    main()
