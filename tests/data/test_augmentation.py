"""Augmentation, against what is done to every image by hand."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sparse_sam.data.augmentation import (
    Augmentation,
    cutout,
    flip,
    random_centres,
    random_flips,
    random_shifts,
    shift,
)

BACKGROUND = -7.0
SHAPES = st.tuples(*[st.integers(1, 4)] * 4)
MOVES = st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=4, max_size=4)


def numbered(shape: tuple[int, int, int, int]) -> Tensor:
    """Images in which no two pixels are alike, and none is 0."""
    return torch.arange(1.0, torch.Size(shape).numel() + 1).view(shape)


def moved(image: Tensor, down: int, right: int, background: Tensor) -> Tensor:
    """One image, (channels, height, width), pixel by pixel."""
    channels, height, width = image.shape
    found = background.view(-1, 1, 1).expand(channels, height, width).clone()
    for row in range(height):
        for column in range(width):
            if 0 <= row + down < height and 0 <= column + right < width:
                found[:, row + down, column + right] = image[:, row, column]
    return found


def cut(image: Tensor, row: int, column: int, side: int) -> Tensor:
    """One image without the pixels of a square, one by one."""
    found = image.clone()
    for down in range(side):
        for right in range(side):
            y, x = row - side // 2 + down, column - side // 2 + right
            if 0 <= y < image.shape[1] and 0 <= x < image.shape[2]:
                found[:, y, x] = 0
    return found


@given(shape=SHAPES, moves=MOVES)
def test_every_pixel_is_where_it_was_moved(
    shape: tuple[int, int, int, int], moves: list[tuple[int, int]]
) -> None:
    images, count = numbered(shape), shape[0]
    shifts = torch.tensor(moves[:count])
    channels = BACKGROUND - torch.arange(float(shape[1]))  # one for each channel
    for background in (BACKGROUND, torch.tensor(BACKGROUND, dtype=torch.float64), channels):
        one = torch.as_tensor(background, dtype=torch.float32)
        expected = [moved(images[i], *moves[i], one) for i in range(count)]
        assert shift(images, shifts, 5, background).equal(torch.stack(expected))


def test_a_shift_is_a_crop_of_the_padded_image() -> None:
    images = numbered((9, 2, 4, 5))
    shifts = torch.cartesian_prod(torch.arange(-1, 2), torch.arange(-1, 2))
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=BACKGROUND)
    crops = [
        padded[i, :, 1 - down : 5 - down, 1 - right : 6 - right]
        for i, (down, right) in enumerate(shifts.tolist())
    ]
    assert shift(images, shifts, 1, BACKGROUND).equal(torch.stack(crops))


def test_no_shift_is_the_image_and_the_image_is_left_alone() -> None:
    images = torch.randn(3, 1, 5, 5)
    before = images.clone()
    assert shift(images, torch.zeros(3, 2, dtype=torch.int64), 1, 0.0).equal(before)
    shift(images, torch.ones(3, 2, dtype=torch.int64), 1, 0.0)
    flip(images, torch.ones(3, dtype=torch.bool))
    cutout(images, torch.ones(3, 2, dtype=torch.int64), 2)
    assert images.equal(before)


@given(shape=SHAPES, flips=st.lists(st.booleans(), min_size=4, max_size=4))
def test_flipped_is_every_row_of_those_that_are(
    shape: tuple[int, int, int, int], flips: list[bool]
) -> None:
    images, count = numbered(shape), shape[0]
    found = flip(images, torch.tensor(flips[:count]))
    for i in range(count):
        for row in range(shape[2]):
            pixels = [images[i, :, row, column] for column in range(shape[3])]
            expected = torch.stack(pixels[::-1] if flips[i] else pixels, dim=1)
            assert found[i, :, row].equal(expected)


@given(
    shape=SHAPES,
    side=st.integers(1, 9),
    centres=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=4, max_size=4),
)
def test_the_square_alone_is_cut_out_and_at_an_edge_less_of_it(
    shape: tuple[int, int, int, int], side: int, centres: list[tuple[int, int]]
) -> None:
    images, count = numbered(shape), shape[0]
    expected = [cut(images[i], *centres[i], side) for i in range(count)]
    assert cutout(images, torch.tensor(centres[:count]), side).equal(torch.stack(expected))


def test_a_cutout_by_hand() -> None:
    images = torch.ones(2, 1, 4, 4)
    found = cutout(images, torch.tensor([[2, 2], [0, 3]]), 2)
    assert found[0, 0].tolist() == [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
    assert found[1, 0].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]


@given(
    shape=SHAPES,
    pixels=st.integers(0, 3),
    flipped=st.booleans(),
    side=st.integers(0, 3),
    seed=st.integers(0, 3),
    data=st.data(),
)
def test_all_of_it_together_is_each_in_turn_image_by_image(
    shape: tuple[int, int, int, int],
    pixels: int,
    flipped: bool,
    side: int,
    seed: int,
    data: st.DataObject,
) -> None:
    images, purpose = numbered(shape), ("finetune", 2)
    count, channels, height, width = shape
    background = BACKGROUND - torch.arange(float(channels))
    augmented = Augmentation(
        images,
        background,
        shift_pixels=pixels,
        flip=flipped,
        cutout_pixels=side,
        seed=seed,
        purpose=purpose,
    )
    shifts = random_shifts(count, pixels, seed, *purpose).tolist()
    flips = random_flips(count, seed, *purpose).tolist()
    centres = random_centres(count, height, width, seed, *purpose).tolist()
    places = data.draw(st.permutations(range(count)))[: data.draw(st.integers(1, count))]
    expected = []
    for place in places:
        image = images[place]
        if pixels:
            image = moved(image, *shifts[place], background)
        if flipped and flips[place]:
            image = image[:, :, range(width - 1, -1, -1)]
        if side:
            image = cut(image, *centres[place], side)
        expected.append(image)
    batch = torch.tensor(places)
    assert augmented(images[batch], batch).equal(torch.stack(expected))


def test_shifts_follow_seed_purpose_and_epoch_and_use_every_place() -> None:
    shifts = random_shifts(2000, 2, 5, "finetune", 1)
    assert shifts.equal(random_shifts(2000, 2, 5, "finetune", 1))
    for other in ((6, "finetune", 1), (5, "train_dense", 1), (5, "finetune", 2)):
        assert not shifts.equal(random_shifts(2000, 2, *other))
    counts = torch.bincount(shifts.flatten() + 2, minlength=5)
    assert counts.numel() == 5
    assert counts.min() > 4000 / 5 * 0.85
    assert random_shifts(10, 0, 5).eq(0).all()


def test_the_first_shifts_are_those_of_published_results() -> None:
    """They were trained with these; another draw would make other numbers of them."""
    drawn = random_shifts(4, 2, 0, "finetune", 1)
    assert drawn.tolist() == [[-2, 0], [1, 0], [0, -2], [-2, 1]]


def test_flips_and_centres_follow_seed_purpose_and_epoch_and_use_every_place() -> None:
    flips, centres = (random_flips(2000, 5, "a", 1), random_centres(2000, 3, 4, 5, "a", 1))
    assert flips.equal(random_flips(2000, 5, "a", 1))
    assert centres.equal(random_centres(2000, 3, 4, 5, "a", 1))
    for other in ((6, "a", 1), (5, "b", 1), (5, "a", 2)):
        assert not flips.equal(random_flips(2000, *other))
        assert not centres.equal(random_centres(2000, 3, 4, *other))
    assert 900 < int(flips.sum()) < 1100
    counts = torch.bincount(centres[:, 0] * 4 + centres[:, 1], minlength=12)
    assert counts.numel() == 12
    assert counts.min() > 2000 / 12 * 0.75
