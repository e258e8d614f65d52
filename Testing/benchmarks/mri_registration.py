"""How near a registered MRI comes to its true place on the CT, what is refused, and how well oedema is outlined.

Each synthetic patient has a CT with noise and fat-suppressed MRIs (4 mm slices, oblique, own contrast, uneven coil,
chemical shift, soft tissue that moved), each moved by up to 15 mm and 10 degrees against what its header says. The
error is measured at the voxels of both alae. For the wrong patient the MRI of the patient before is laid sacrum on
sacrum, the hardest case. The anatomy given is the truth. The peer is SimpleITK's own registration as its examples set
it up: mutual information, three resolutions, gradient descent from the header, no mask.

Run: python Testing/benchmarks/mri_registration.py [PATIENTS]       (about a minute for each, five MRIs)
"""

from __future__ import annotations

import sys
import time

import numpy as np
from scipy.ndimage import gaussian_filter

from sacroplasty.anatomy.labels import REGION_LABEL
from sacroplasty.anatomy.model import Anatomy
from sacroplasty.anatomy.mri_registration import register_mri
from sacroplasty.anatomy.oedema import find_oedema
from sacroplasty.errors import SacroplastyError
from sacroplasty.geometry import FloatArray, LPSToRAS, invert_rigid, rigid, rotation_about, transform_points
from sacroplasty.image import Volume, itk_from_volume
from sacroplasty.phantom.make import Phantom, make_phantom
from sacroplasty.phantom.mri import PhantomMRI, make_mri

FRACTURES = ("left", "right", "bilateral", "h", "none")
MRIS, FIRST_SEED = 4, 200
LARGEST_MM, LARGEST_DEG = 15.0, 10.0
#: Further off than this at an ala, an accepted pose is wrong.
WRONG_MM = 3.0


def main(patients: int) -> None:
    print("patient mri  header mm  result            error mm  warned  oedema Dice (true mL)  s  | peer mm   s")
    errors: list[float] = []
    dices, peers = [], []
    refused = wrong = others = others_accepted = others_unwarned = 0
    before: tuple[Phantom, PhantomMRI] | None = None
    for number in range(patients):
        phantom, ct, anatomy = make_patient(FIRST_SEED + number, FRACTURES[number % len(FRACTURES)])
        alae = np.isin(phantom.regions.voxels, [REGION_LABEL["ala_left"], REGION_LABEL["ala_right"]])
        points = ct.ras_of(np.argwhere(alae)[::20])
        for count in range(MRIS):
            rng = np.random.default_rng([FIRST_SEED, number, count])
            mri = make_mri(phantom, 1000 * number + count, motion(phantom, rng))

            def error_mm(MRIToCT: FloatArray, mri: PhantomMRI = mri, points: FloatArray = points) -> float:
                moved = transform_points(MRIToCT @ invert_rigid(mri.MRIToCT), points)
                return float(np.linalg.norm(moved - points, axis=1).mean())

            line = f"{number:7} {count:3} {error_mm(np.eye(4)):10.1f}  "
            began = time.monotonic()
            try:
                found = register_mri(ct, mri.volume, anatomy)
            except SacroplastyError as refusal:
                refused += 1
                print(f"{line}refused after {time.monotonic() - began:.0f} s: {refusal}", flush=True)
                continue
            took = time.monotonic() - began
            errors.append(error_mm(found.MRIToCT))
            wrong += errors[-1] > WRONG_MM
            line += f"from {found.start:<12} {errors[-1]:8.2f}  {'yes' if len(found.warnings) > 1 else 'no':>6}"
            oedema = find_oedema(ct, mri.volume, anatomy, found)
            shown = oedema.masks["oedema_left"] | oedema.masks["oedema_right"]
            true_ml = np.count_nonzero(mri.oedema) * ct.voxel_volume_ml
            if true_ml > 0:
                dices.append(2 * np.count_nonzero(shown & mri.oedema) / (shown.sum() + mri.oedema.sum()))
                line += f"{dices[-1]:12.3f} ({true_ml:.0f})"
            else:
                line += f"  {np.count_nonzero(shown) * ct.voxel_volume_ml:.1f} mL where none is"
            line += f" {took:6.1f}"
            if count == 0:
                began = time.monotonic()
                peers.append(error_mm(peer(ct, mri.volume)))
                line += f" | {peers[-1]:.2f} {time.monotonic() - began:.1f}"
            print(line, flush=True)
        if before is not None:
            others += 1
            stranger = before[1].volume
            laid = phantom.SacrumToRAS @ invert_rigid(before[0].SacrumToRAS) @ before[1].MRIToCT @ stranger.IJKToRAS
            try:
                found = register_mri(ct, Volume(stranger.voxels, laid), anatomy)
                others_accepted += 1
                others_unwarned += len(found.warnings) == 1
                print(f"{number:7} MRI of another patient: accepted, parts disagree {found.disagreement_mm:.1f} mm")
            except SacroplastyError as refusal:
                print(f"{number:7} MRI of another patient: refused, {refusal}", flush=True)
        before = phantom, mri
    if not errors:
        return
    print(
        f"\nerror at the alae: mean {np.mean(errors):.2f}, 95 % {np.percentile(errors, 95):.2f}, "
        f"worst {max(errors):.2f} mm"
    )
    print(f"refused {refused} of {refused + len(errors)}; accepted though wrong by more than {WRONG_MM:g} mm: {wrong}")
    print(f"other patients: {others_accepted} of {others} accepted, {others_unwarned} without a warning")
    print(f"oedema Dice: mean {np.mean(dices):.2f}, worst {min(dices):.2f} of {len(dices)}")
    print(f"peer: mean {np.mean(peers):.2f}, worst {max(peers):.2f} mm of {len(peers)}")


def make_patient(seed: int, fracture: str) -> tuple[Phantom, Volume, Anatomy]:
    """The phantom without noise, its CT with noise, and its true anatomy."""
    phantom = make_phantom(seed, spacing_mm=(1.5, 1.5, 2.0), noise_hu=0, fracture=fracture)
    noise = np.random.default_rng([seed, 3]).standard_normal(phantom.ct.voxels.shape, dtype=np.float32)
    noise = gaussian_filter(noise, (0, 0.4, 0.4))
    noisy = phantom.ct.voxels + noise * (20 / noise.std())
    ct = phantom.ct.like(np.clip(np.round(noisy), -1024, 3071).astype(np.int16))
    anatomy = Anatomy(phantom.bones, phantom.regions, {}, {}, phantom.SacrumToRAS, {}, (), "truth", ct.content_hash())
    return phantom, ct, anatomy


def motion(phantom: Phantom, rng: np.random.Generator) -> FloatArray:
    """A random rigid motion about the middle of the sacrum."""
    turn = rotation_about(rng.normal(size=3), rng.uniform(0, LARGEST_DEG))
    direction = rng.normal(size=3)
    step = direction / np.linalg.norm(direction) * rng.uniform(0, LARGEST_MM)
    center = transform_points(phantom.SacrumToRAS, [0, 12, -45])
    return rigid(turn, center - turn @ center + step)


def peer(ct: Volume, mri: Volume) -> FloatArray:
    """MRIToCT by SimpleITK's registration method with common settings."""
    import SimpleITK as sitk

    fixed, moving = (sitk.Cast(itk_from_volume(volume), sitk.sitkFloat32) for volume in (ct, mri))
    middle = mri.ras_of((np.array(mri.voxels.shape) - 1) / 2)
    transform = sitk.Euler3DTransform()
    transform.SetCenter((LPSToRAS[:3, :3] @ middle).tolist())
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(50)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(0.05, 1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 0.01, 100)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 0])
    method.SetInitialTransform(transform, inPlace=True)
    method.Execute(fixed, moving)
    matrix = np.array(transform.GetMatrix()).reshape(3, 3)
    center, shift = np.array(transform.GetCenter()), np.array(transform.GetTranslation())
    CTToMRI = LPSToRAS @ rigid(matrix, center - matrix @ center + shift) @ LPSToRAS
    return invert_rigid(CTToMRI)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 6)
