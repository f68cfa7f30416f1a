"""A search whose optimum never lies at an edge: it goes on until a worse value is on both sides.

One value after the other (coordinate descent): along each, the best so far is compared with its two
neighbours, a factor apart, and so on from the best of them; over and over, until no neighbour in
any value is better.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Point = tuple[float, ...]
"""A value of every line, in the lines' order."""


@dataclass(frozen=True)
class Line:
    """One of the values that are searched.

    Attributes:
        name: what it is.
        start: where the search begins.
        factor: from one value to the next, above 1.
        floor: values are not below it. The lowest has nothing below it, which is no edge: what it
            stands for is said where the line is declared.
    """

    name: str
    start: float
    factor: float
    floor: float

    def neighbours(self, value: float) -> list[float]:
        """The next lower and the next higher value; no lower one at the floor."""
        lower, higher = value / self.factor, value * self.factor
        return [rounded(one) for one in (lower, higher) if one >= self.floor * (1 - 1e-9)]


@dataclass(frozen=True)
class Found:
    """What a search came to.

    Attributes:
        best: the point with the highest score; of equal ones, that which was tried first.
        scores: of every point that was tried, in the order of trying.
    """

    best: Point
    scores: Mapping[Point, float] = field(default_factory=dict)


def rounded(value: float) -> float:
    """To four digits, so that there and back again is the same value."""
    return float(f"{value:.4g}")


def search(lines: Sequence[Line], score: Callable[[Point], float]) -> Found:
    """Find the point with the highest score.

    Args:
        lines: the values that are searched.
        score: of a point; asked once for each.
    """
    scores: dict[Point, float] = {}

    def asked(point: Point) -> float:
        if point not in scores:
            scores[point] = score(point)
        return scores[point]

    best = tuple(rounded(line.start) for line in lines)
    asked(best)
    while not is_inside(found := Found(best, scores), lines):
        for place, line in enumerate(lines):
            best = _climbed(best, place, line, asked)
    return found


def _climbed(best: Point, place: int, line: Line, asked: Callable[[Point], float]) -> Point:
    """The best along one line: both its neighbours are tried, and are no better."""
    while True:
        near = [_with(best, place, value) for value in line.neighbours(best[place])]
        ahead = max([best, *near], key=asked)  # the first of equals: the point itself
        if ahead == best:
            return best
        best = ahead


def neighbours(point: Point, lines: Sequence[Line]) -> list[Point]:
    """The points that differ from one in one value, by one factor."""
    return [
        _with(point, place, value)
        for place, line in enumerate(lines)
        for value in line.neighbours(point[place])
    ]


def is_inside(found: Found, lines: Sequence[Line]) -> bool:
    """Whether every neighbour of the best was tried, and is no better."""
    best = found.scores[found.best]
    return all(
        point in found.scores and found.scores[point] <= best
        for point in neighbours(found.best, lines)
    )


def _with(point: Point, place: int, value: float) -> Point:
    return (*point[:place], value, *point[place + 1 :])
