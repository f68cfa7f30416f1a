"""Splitting: no digit is lost or stands in two parts, and every class is in each."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparse_sam.data.params import DataParams
from sparse_sam.data.raw import RawData
from sparse_sam.data.stratify import build_dataset
from sparse_sam.errors import DataError

MakeParams = Callable[..., DataParams]
FRACTIONS = st.one_of(st.just(1.0), st.floats(0.05, 1.0))


def numbered(train: list[int], test: list[int]) -> RawData:
    """So many images of each class, every one with a number of its own in its pixels."""
    parts: dict[str, Any] = {}
    start = 0
    for part, counts in (("train", train), ("test", test)):
        numbers = np.arange(start, start + sum(counts), dtype=">u4")
        start += sum(counts)
        parts[f"{part}_images"] = numbers.view(np.uint8).reshape(-1, 2, 2)
        parts[f"{part}_labels"] = np.repeat(np.arange(len(counts)), counts)
    return RawData("numbered", **parts)


def numbers_of(images: Any) -> list[int]:
    return np.ascontiguousarray(images).reshape(-1, 4).view(">u4").reshape(-1).tolist()


@given(
    train=st.lists(st.integers(12, 60), min_size=2, max_size=5),
    fraction=FRACTIONS,
    validation=st.one_of(st.just(0.0), st.floats(0.01, 0.95)),
    seed=st.integers(0, 2**32 - 1),
)
def test_parts_are_disjoint_complete_and_stratified(
    data_params: MakeParams,
    train: list[int],
    fraction: float,
    validation: float,
    seed: int,
) -> None:
    test = [count // 2 for count in train]
    raw = numbered(train, test)
    params = data_params(fraction=fraction, validation_fraction=validation, split_seed=seed)
    try:
        dataset = build_dataset(raw, params)
    except DataError as error:
        # Too few images for a part are an error that names what asked for it.
        assert "fraction" in str(error)  # noqa: PT017 - whether it is raised is the data's
        return
    label_of = dict(zip(numbers_of(raw.train_images), raw.train_labels, strict=True))
    label_of |= dict(zip(numbers_of(raw.test_images), raw.test_labels, strict=True))
    numbers = {part: numbers_of(images) for part, (images, _) in dataset.parts.items()}
    everywhere = [number for part in numbers.values() for number in part]
    assert len(set(everywhere)) == len(everywhere)
    for part, (_, labels) in dataset.parts.items():
        assert [label_of[number] for number in numbers[part]] == labels.tolist()
        assert (min(numbers[part]) >= sum(train)) == (part == "test")
        assert np.bincount(labels).tolist() == dataset.info.counts[part]

    assert ("validation" in dataset.parts) == (validation > 0)
    total = round(fraction * sum(train))
    held_out = round(validation * total)
    expected = {"train": (train, total - held_out), "validation": (train, held_out)}
    expected["test"] = (test, round(fraction * sum(test)))
    for part, counts in dataset.info.counts.items():
        of, size = expected[part]
        assert sum(counts) == size
        # Within one of its exact share, at each of the splits that made it.
        splits = (fraction < 1) + (validation > 0 and part != "test")
        for count, available in zip(counts, of, strict=True):
            assert abs(count - size * available / sum(of)) <= splits


def test_the_default_parameters_hold_out_500_digits(
    digits: RawData, data_params: MakeParams
) -> None:
    info = build_dataset(digits, data_params()).info
    assert info.counts == {"train": [350] * 10, "validation": [50] * 10, "test": [100] * 10}
    assert (info.image_shape, info.num_classes) == ((1, 28, 28), 10)
    assert (info.source, info.files) == (digits.source, digits.files)


def test_a_fraction_shrinks_training_and_test_set(digits: RawData, data_params: MakeParams) -> None:
    info = build_dataset(digits, data_params(fraction=0.1)).info
    assert info.counts == {"train": [35] * 10, "validation": [5] * 10, "test": [10] * 10}


def test_mean_and_deviation_are_those_of_the_training_part(
    digits: RawData, data_params: MakeParams
) -> None:
    dataset = build_dataset(digits, data_params())
    pixels = np.asarray(dataset.parts["train"][0]) / 255
    assert dataset.info.mean == (pytest.approx(pixels.mean(), rel=1e-12),)
    assert dataset.info.std == (pytest.approx(pixels.std(), rel=1e-12),)
    assert dataset.info.mean[0] != pytest.approx(digits.train_images.mean() / 255, rel=1e-6)


def test_the_seed_decides_the_split_and_nothing_else_does(
    digits: RawData, data_params: MakeParams
) -> None:
    first, again, other = (
        build_dataset(digits, data_params(split_seed=seed)).info for seed in (3, 3, 4)
    )
    assert first == again
    assert first.counts == other.counts
    assert first.fingerprint != other.fingerprint


def test_the_fingerprint_covers_images_labels_and_parts(data_params: MakeParams) -> None:
    raw = numbered([20, 20], [20, 20])
    params = data_params(validation_fraction=0.0)
    changed_image, changed_label = raw.test_images.copy(), raw.test_labels[::-1].copy()
    changed_image[0, 0, 0, 0] ^= 1
    train = (raw.train_images, raw.train_labels)
    variants = [
        raw,
        RawData("numbered", *train, changed_image, raw.test_labels),
        RawData("numbered", *train, raw.test_images, changed_label),
        RawData("numbered", raw.test_images, raw.test_labels, *train),
    ]
    fingerprints = {build_dataset(one, params).info.fingerprint for one in variants}
    fingerprints.add(build_dataset(raw, data_params(validation_fraction=0.5)).info.fingerprint)
    named = replace(raw, classes=("cat", "dog"))
    fingerprints.add(build_dataset(named, params).info.fingerprint)
    assert len(fingerprints) == 6


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"fraction": 0.0001}, "data.fraction = 0.0001: "),
        ({"fraction": 0.04}, "data.fraction = 0.04: "),
        ({"validation_fraction": 0.0001}, "data.validation_fraction = 0.0001: "),
        ({"validation_fraction": 0.999}, "data.validation_fraction = 0.999: "),
    ],
)
def test_a_part_with_fewer_images_than_classes_is_an_error_that_names_its_cause(
    data_params: MakeParams, changes: dict[str, float], reason: str
) -> None:
    raw = numbered([20, 20, 20], [20, 20, 20])
    with pytest.raises(DataError) as raised:
        build_dataset(raw, data_params(**changes))
    assert str(raised.value).startswith(reason)
    assert "so that both hold every class" in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"fraction": 0.1, "validation_fraction": 0.0}, "train"),
        ({"validation_fraction": 0.1}, "validation"),
        ({"validation_fraction": 0.9}, "train"),
    ],
)
def test_a_rare_class_is_never_lost_in_silence(
    data_params: MakeParams, changes: dict[str, float], part: str
) -> None:
    with pytest.raises(DataError) as raised:
        build_dataset(numbered([1000, 3], [1000, 30]), data_params(**changes))
    assert f": the {part} part of " in str(raised.value)
    assert "has none of class 1" in str(raised.value)
    assert "data.fraction" in str(raised.value)


def test_images_that_are_all_one_shade_are_refused(data_params: MakeParams) -> None:
    raw = numbered([20, 20], [20, 20])
    blank = RawData(
        "blank",
        np.zeros((40, 2, 2), np.uint8),
        raw.train_labels,
        raw.test_images,
        raw.test_labels,
    )
    with pytest.raises(DataError, match="blank: all pixels of the training images are the same"):
        build_dataset(blank, data_params())


@pytest.mark.parametrize("count", [3, 20, 1000])
def test_a_fraction_that_rounds_to_all_keeps_all(data_params: MakeParams, count: int) -> None:
    raw = numbered([count, count], [count, count])
    params = data_params(fraction=0.99999, validation_fraction=0.0)
    assert build_dataset(raw, params).info.counts == {"train": [count] * 2, "test": [count] * 2}


def test_without_validation_nothing_is_held_out(data_params: MakeParams) -> None:
    raw = numbered([20, 30], [5, 5])
    parts = build_dataset(raw, data_params(validation_fraction=0.0)).parts
    assert list(parts) == ["train", "test"]
    np.testing.assert_array_equal(parts["train"][0], raw.train_images)
    np.testing.assert_array_equal(parts["test"][1], raw.test_labels)


def test_statistics_are_those_of_each_channel(data_params: MakeParams) -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (40, 3, 5, 4), np.uint8)
    drawn[:, 1] //= 3
    labels = np.arange(40) % 2
    raw = RawData("colour", drawn, labels, drawn[:10], labels[:10])
    info = build_dataset(raw, data_params(validation_fraction=0.0)).info
    assert info.image_shape == (3, 5, 4)
    np.testing.assert_allclose(info.mean, drawn.mean(axis=(0, 2, 3)) / 255, rtol=1e-12)
    np.testing.assert_allclose(info.std, drawn.std(axis=(0, 2, 3)) / 255, rtol=1e-12)
    drawn[:, 2] = 9
    with pytest.raises(DataError, match=r"all pixels of channel 3 .*data.channels: 1 converts"):
        build_dataset(RawData("colour", drawn, labels, drawn[:10], labels[:10]), data_params())


def test_a_test_part_is_split_off_where_there_is_none(data_params: MakeParams) -> None:
    whole = numbered([50, 30], [1, 1])
    raw = RawData("one folder", whole.train_images, whole.train_labels)
    params = data_params(test_fraction=0.2, validation_fraction=0.25)
    dataset = build_dataset(raw, params)
    assert dataset.info.counts == {"train": [30, 18], "validation": [10, 6], "test": [10, 6]}
    numbers = [one for images, _ in dataset.parts.values() for one in numbers_of(images)]
    assert sorted(numbers) == list(range(80))
    # What is tested does not depend on what is held out of training.
    other = build_dataset(raw, data_params(test_fraction=0.2, validation_fraction=0.1))
    np.testing.assert_array_equal(dataset.parts["test"][0], other.parts["test"][0])
    with pytest.raises(DataError, match=r"data\.test_fraction = 0\.0: one folder has no test part"):
        build_dataset(raw, data_params(test_fraction=0.0))


def test_a_validation_part_of_its_own_is_used(data_params: MakeParams) -> None:
    whole = numbered([20, 20], [10, 10])
    raw = replace(whole, validation_images=whole.test_images, validation_labels=whole.test_labels)
    dataset = build_dataset(raw, data_params(validation_fraction=0.0))
    assert list(dataset.parts) == ["train", "validation", "test"]
    np.testing.assert_array_equal(dataset.parts["validation"][0], whole.test_images)
    with pytest.raises(DataError, match=r"set data\.validation_fraction to 0"):
        build_dataset(raw, data_params(validation_fraction=0.125))
