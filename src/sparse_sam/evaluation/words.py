"""Numbers as every table, sentence and page says them."""

from sparse_sam.evaluation.statistics import ALPHA


def signed(points: float) -> str:
    """A difference in points: two digits, a sign, a minus sign that is one, and no −0.00."""
    return f"{points:+z.2f}".replace("-", "−")


def p_in_words(value: float) -> str:
    """A p value with three digits; with more where it would be rounded to the other side of 0.05.

    One that is too small for that is ``< 0.001``.
    """
    if value < 0.001:
        return "< 0.001"
    digits = 3
    while (round(value, digits) < ALPHA) != (value < ALPHA):
        digits += 1
    return f"{value:.{digits}f}"
