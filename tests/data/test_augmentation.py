"""Shifts, against moving every image by hand."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from sparse_sam.data.augmentation import random_shifts, shift

BACKGROUND = -7.0


@given(
    shape=st.tuples(*[st.integers(1, 4)] * 4),
    moves=st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=4, max_size=4),
)
def test_every_pixel_is_where_it_was_moved(
    shape: tuple[int, int, int, int], moves: list[tuple[int, int]]
) -> None:
    count, _, height, width = shape
    images = torch.arange(float(torch.Size(shape).numel())).view(shape)
    expected = torch.full(shape, BACKGROUND)
    for image, (down, right) in enumerate(moves[:count]):
        for row in range(height):
            for column in range(width):
                if 0 <= row + down < height and 0 <= column + right < width:
                    expected[image, :, row + down, column + right] = images[image, :, row, column]
    assert shift(images, torch.tensor(moves[:count]), 5, BACKGROUND).equal(expected)


def test_no_shift_is_the_image_and_the_image_is_left_alone() -> None:
    images = torch.randn(3, 1, 5, 5)
    before = images.clone()
    assert shift(images, torch.zeros(3, 2, dtype=torch.int64), 1, 0.0).equal(before)
    shift(images, torch.ones(3, 2, dtype=torch.int64), 1, 0.0)
    assert images.equal(before)


def test_shifts_follow_seed_purpose_and_epoch_and_use_every_place() -> None:
    shifts = random_shifts(2000, 2, 5, "finetune", 1)
    assert shifts.equal(random_shifts(2000, 2, 5, "finetune", 1))
    for other in ((6, "finetune", 1), (5, "train_dense", 1), (5, "finetune", 2)):
        assert not shifts.equal(random_shifts(2000, 2, *other))
    counts = torch.bincount(shifts.flatten() + 2, minlength=5)
    assert counts.numel() == 5
    assert counts.min() > 4000 / 5 * 0.85
    assert random_shifts(10, 0, 5).eq(0).all()
