"""Filters: each against a formula, a value worked by hand, or an independent implementation."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from autoseg_lib.errors import GeometryError, ModelError
from autoseg_lib.preprocess.filters.gabor import SIGMA_SHARE, gabor_kernel
from autoseg_lib.preprocess.filters.haralick import quantised
from autoseg_lib.preprocess.filters.table import FILTERS, apply_filter
from autoseg_lib.preprocess.filters.wavelet import FAMILIES, level_of
from autoseg_lib.preprocess.operations import check_table

SPACING = (4.0, 0.75, 1.25)
NOISE = np.random.default_rng(3).normal(size=(3, 24, 32)).astype(np.float32)


def filtered(
    name: str, pixels: np.ndarray, spacing: Any = SPACING, *, planes: bool = True, **given: Any
) -> np.ndarray:
    """The filter with its defaults filled in by the table, as a model file has them."""
    parameters, problems = check_table(FILTERS[name].operation, given, name)
    assert not problems
    found = apply_filter(pixels, spacing, name, parameters, planes=planes)
    assert found.shape == pixels.shape and found.dtype == np.float32
    return found


def world(shape: tuple[int, int, int], spacing: tuple[float, float, float] = SPACING) -> list[np.ndarray]:
    """z, y, x of each pixel in mm."""
    return list(
        np.stack(np.meshgrid(*[np.arange(n) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij"))
    )


def test_mean_is_the_mean_of_the_box() -> None:
    # 3.9 mm: 5 rows of 0.75 mm (3.75) and 3 columns of 1.25 mm (3.75); in space one slice of 4 mm.
    for planes in (True, False):
        found = filtered("mean", NOISE, planes=planes, size_mm=3.9)
        assert found[1, 10, 12] == pytest.approx(NOISE[1, 8:13, 11:14].mean(), abs=1e-6)
    # At a corner the edge goes on: of 5 rows the first three are row 0, of 3 columns the first two are column 0.
    rows, columns = np.array([0, 0, 0, 1, 2]), np.array([0, 0, 1])
    assert found[0, 0, 0] == pytest.approx(NOISE[0][np.ix_(rows, columns)].mean(), abs=1e-6)
    thick = filtered(
        "mean", NOISE, planes=False, size_mm=11.6
    )  # 3 slices, 15 rows (11.25), 9 columns (11.25)
    assert thick[1, 12, 16] == pytest.approx(NOISE[:, 5:20, 12:21].mean(), abs=1e-6)


def test_sobel_gives_the_slope_per_mm() -> None:
    z, y, x = world((5, 12, 14))
    plane = (2 * y - 3 * x + 5 * z).astype(np.float32)
    inner = (slice(1, -1),) * 3
    np.testing.assert_allclose(filtered("sobel", plane)[inner], math.hypot(2, 3), rtol=1e-5)
    np.testing.assert_allclose(
        filtered("sobel", plane, planes=False)[inner], math.sqrt(4 + 9 + 25), rtol=1e-5
    )
    # By hand: one bright pixel; its right neighbour sees (1/2) * (2/4) of it along the row, nothing down the column.
    spot = np.zeros((1, 5, 5), np.float32)
    spot[0, 2, 2] = 1
    found = filtered("sobel", spot, (1, 1, 1))[0]
    assert found[2, 3] == pytest.approx(0.25) and found[2, 2] == 0
    assert found[1, 1] == pytest.approx(math.hypot(0.125, 0.125))


def test_sobel_against_scikit_image() -> None:
    skimage = pytest.importorskip("skimage.filters")
    ours = filtered("sobel", NOISE[:1], (1, 1, 1))[0]
    # scikit-image takes the mean of both directions' squares instead of their sum, and differences over two pixels.
    theirs = skimage.sobel(NOISE[0].astype(float), mode="nearest") * math.sqrt(2) / 2
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("planes", [True, False])
def test_log_of_waves_is_what_the_formula_says(planes: bool) -> None:
    """cos(kx) blurred by sigma shrinks by exp(-k²sigma²/2); its second derivative is -k² times it."""
    spacing, sigma = (1.0, 0.5, 0.8), 2.0
    _, y, x = world((24, 80, 60), spacing)
    for length, direction in ((16.0, x), (14.0, y)):
        k = 2 * math.pi / length
        found = filtered(
            "log", np.cos(k * direction).astype(np.float32), spacing, planes=planes, sigma_mm=sigma
        )
        expected = -(sigma**2) * k**2 * math.exp(-(k**2) * sigma**2 / 2) * np.cos(k * direction)
        inner = (slice(None), slice(25, -25), slice(16, -16))
        np.testing.assert_allclose(found[inner], expected[inner], atol=4e-3)


def test_log_against_simpleitk() -> None:
    image = sitk.GetImageFromArray(NOISE[0])
    image.SetSpacing((1.25, 0.75))
    theirs = sitk.GetArrayFromImage(
        sitk.LaplacianRecursiveGaussian(image, sigma=3.0, normalizeAcrossScale=True)
    )
    ours = filtered("log", NOISE[:1], sigma_mm=3.0)[0]
    # Its recursive Gaussian is an approximation.
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.999
    np.testing.assert_allclose(ours, theirs, atol=0.05 * np.abs(theirs).max())


def test_log_finer_than_the_pixels_is_a_second_difference() -> None:
    found = filtered("log", NOISE, (1, 1, 1), sigma_mm=0.3)
    plane = NOISE[0].astype(float)
    by_hand = plane[4, 6] + plane[6, 6] + plane[5, 5] + plane[5, 7] - 4 * plane[5, 6]
    assert found[0, 5, 6] == pytest.approx(0.09 * by_hand, abs=1e-5)


def test_gabor_gives_a_wave_its_own_amplitude() -> None:
    spacing = (4.0, 0.5, 0.8)
    _, y, x = world((1, 120, 100), spacing)
    for angle in (0.0, 30.0, 90.0):
        along = x * math.cos(math.radians(angle)) + y * math.sin(math.radians(angle))
        wave = (100 + 7 * np.cos(2 * math.pi * along / 8)).astype(np.float32)
        found = filtered("gabor", wave, spacing, wavelength_mm=8.0, angles=angle)
        np.testing.assert_allclose(found[0, 40:-40, 30:-30], 7, rtol=0.02)
        across = filtered("gabor", wave, spacing, wavelength_mm=8.0, angles=angle + 90)
        assert across[0, 40:-40, 30:-30].max() < 0.3
    np.testing.assert_allclose(filtered("gabor", np.full((1, 30, 30), 55, np.float32)), 0, atol=1e-3)


def test_gabor_kernel_against_scikit_image() -> None:
    skimage = pytest.importorskip("skimage.filters")
    ours = gabor_kernel(6.0, 25.0, (1.0, 1.0))
    sigma = SIGMA_SHARE * 6
    theirs = skimage.gabor_kernel(1 / 6, theta=math.radians(25), sigma_x=sigma, sigma_y=sigma, n_stds=3)
    down, right = (min(a, b) // 2 for a, b in zip(ours.shape, theirs.shape, strict=True))

    def middle(kernel: np.ndarray) -> np.ndarray:
        y, x = (n // 2 for n in kernel.shape)
        return kernel[y - down : y + down + 1, x - right : x + right + 1]

    # Theirs answers to a flat image, ours does not; and theirs is scaled by the Gaussian's integral, ours by its sum.
    bell = np.abs(theirs)
    without = theirs - bell / bell.sum() * theirs.sum()
    np.testing.assert_allclose(middle(ours), middle(without), atol=2e-4)


def test_laws_by_hand() -> None:
    # A slope of 3 per column: E5 along the columns gives (-1 * -2 - 2 * -1 + 2 * 1 + 1 * 2) * 3 / 6 = 8 * 3 / 6 = 4, L5 down the
    # rows leaves it; the other way round E5 finds nothing down the rows. Mean of both sizes: 2.
    slope = np.broadcast_to(3 * np.arange(40, dtype=np.float32), (1, 40, 40)).copy()
    found = filtered("laws", slope, (1, 1, 1), kernel="E5L5", size_mm=5.0)
    np.testing.assert_allclose(found[0, 10:-10, 10:-10], 2.0, rtol=1e-5)
    # Ripple R5 = 1 -4 6 -4 1 over stripes of +1 and -1: 16 / 16 = 1 along the columns and 1 down the rows of a checkerboard.
    board = np.where(np.indices((1, 30, 30)).sum(axis=0) % 2, 1, -1).astype(np.float32)
    np.testing.assert_allclose(
        filtered("laws", board, (1, 1, 1), kernel="R5R5")[0, 8:-8, 8:-8], 1.0, rtol=1e-5
    )
    # With places 2 mm apart on pixels of 1 mm the checkerboard is flat to it.
    flat = filtered("laws", board, (1, 1, 1), kernel="R5R5", step_mm=2.0)
    np.testing.assert_allclose(flat[0, 12:-12, 12:-12], 0.0, atol=1e-6)


def test_wavelet_against_pywavelets() -> None:
    """Our bands are those of its stationary transform, at every pixel, but for the scale (ours keeps a constant image)."""
    pywt = pytest.importorskip("pywt")
    image = np.random.default_rng(5).normal(size=(128, 128))
    for family in FAMILIES:
        for level in (1, 2, 3):
            theirs = pywt.swt2(image, family, level=level, norm=False)[0]
            bands = {"LL": theirs[0], "HL": theirs[1][0], "LH": theirs[1][1], "HH": theirs[1][2]}
            for band, expected in bands.items():
                ours = filtered(
                    "wavelet",
                    image[None].astype(np.float32),
                    (1, 1, 1),
                    band=band,
                    scale_mm=2.0**level,
                    family=family,
                )
                inner = (slice(56, 72), slice(56, 72))  # pywt goes on periodically, we mirror
                np.testing.assert_allclose(
                    ours[0][inner] * 2**level, expected[inner], atol=1e-4, err_msg=f"{family} {level} {band}"
                )


def test_wavelet_by_hand() -> None:
    pytest.importorskip("pywt")
    image = np.array([[[1, 3, 7, 7], [1, 3, 7, 7]]], np.float32)
    # Haar: half the difference of two neighbouring columns, wherever it is counted from.
    found = np.abs(filtered("wavelet", image, (1, 1, 1), band="LH", scale_mm=2.0)[0, 0])
    assert sorted(found.tolist()) == pytest.approx([0, 0, 1, 2]) or sorted(found.tolist()) == pytest.approx(
        [0, 0, 1, 2]
    )
    np.testing.assert_allclose(
        filtered("wavelet", np.full((1, 8, 8), 5, np.float32), band="LL"), 5, rtol=1e-6
    )
    assert [level_of(mm, 0.5) for mm in (0.1, 1.0, 2.0, 3.9, 1000)] == [1, 1, 2, 3, 6]


def test_without_pywavelets_the_message_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name == "pywt":
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ModelError, match=r'needs PyWavelets.*pip install "autoseg-workbench\[filters\]"'):
        filtered("wavelet", NOISE)


@pytest.mark.parametrize(
    "feature", ["contrast", "dissimilarity", "homogeneity", "energy", "entropy", "correlation"]
)
def test_haralick_against_scikit_image(feature: str) -> None:
    skimage = pytest.importorskip("skimage.feature")
    spacing = (3.0, 1.0, 1.5)
    found = filtered("haralick", NOISE, spacing, feature=feature, size_mm=7.0, levels=6)
    low, high = np.percentile(NOISE[1], (0.5, 99.5))
    grey = quantised(NOISE[1], low, high, 6).astype(np.uint8)
    for row, column in ((10, 14), (0, 0), (23, 31), (5, 30)):
        # 7 mm: 7 rows; 5 columns of 1.5 mm (7.5). Clipped at the image's edge.
        window = grey[max(0, row - 3) : row + 4, max(0, column - 2) : column + 3]
        counts = skimage.graycomatrix(
            window, [1], [0, math.pi / 4, math.pi / 2, 3 * math.pi / 4], levels=6, symmetric=True
        )
        pooled = counts.sum(axis=3, keepdims=True).astype(float)
        pooled /= pooled.sum()
        assert found[1, row, column] == pytest.approx(
            # Theirs counts entropy in nats, ours in bits.
            float(skimage.graycoprops(pooled, feature)[0, 0]) / (math.log(2) if feature == "entropy" else 1),
            abs=1e-5,
        )


def test_haralick_by_hand() -> None:
    # Stripes one pixel wide, levels 0 and 7 of 8: along the row all pairs differ by 7, down the column none does, and the two
    # diagonals again all do. In a 3 x 3 window: 6 pairs along rows, 6 along columns, 4 + 4 diagonal: contrast 14 / 20 * 49.
    stripes = np.broadcast_to(np.arange(20) % 2 * 100.0, (1, 20, 20)).astype(np.float32).copy()
    found = filtered("haralick", stripes, (1, 1, 1), feature="contrast", size_mm=3.0)
    np.testing.assert_allclose(found[0, 3:-3, 3:-3], 14 / 20 * 49, rtol=1e-6)


def test_a_window_without_any_pair_is_refused() -> None:
    # 10 mm on pixels of 1 mm: 4 pixels to either side, so two pixels lie 8 apart at most.
    image = np.random.default_rng(0).normal(size=(1, 20, 20)).astype(np.float32)
    given = {"feature": "contrast", "size_mm": 10.0, "levels": 8}
    parameters = {**given, "distance_mm": 8.0}
    assert apply_filter(image, (3, 1, 1), "haralick", parameters, planes=True).any()
    with pytest.raises(
        GeometryError, match=r"on pixels of 1 × 1 mm a window of size_mm = 10 holds no two pixels"
    ):
        apply_filter(image, (3, 1, 1), "haralick", {**given, "distance_mm": 9.0}, planes=True)


def test_every_filter_of_a_flat_image_is_flat() -> None:
    flat = np.full((2, 16, 16), 9.0, np.float32)
    for name, item in FILTERS.items():
        if name == "wavelet":
            pytest.importorskip("pywt")
        found = filtered(name, flat, **{k: v for k, v in item.operation.example.items() if k != "filter"})
        np.testing.assert_allclose(found, found[0, 0, 0], atol=1e-4)
