"""What an arm is called and how it looks, wherever a person sees it.

The colours are Okabe and Ito's, which people with any colour vision can tell apart, as far as they
have a contrast of 3:1 with white and with ``#121212``, the dark page; every arm has a marker, too.
"""

ARM_NAMES = {
    "dense": "dense",
    "pruned": "pruned",
    "sgd": "SGD",
    "sgd_2x": "SGD (2× epochs)",
    "sam": "SAM",
}
ARM_COLOURS = {
    "dense": "#767676",
    "pruned": "#CC79A7",
    "sgd": "#0072B2",
    "sgd_2x": "#009E73",
    "sam": "#D55E00",
}
ARM_MARKERS = {"dense": "s", "pruned": "X", "sgd": "o", "sgd_2x": "^", "sam": "D"}
SGD = "SGD"
"""The base optimizer, unless another is named."""
COMPARISONS = {"sam_vs_sgd": ("sam", "sgd"), "sam_vs_sgd_2x": ("sam", "sgd_2x")}
"""What is compared: the first arm minus the second."""
