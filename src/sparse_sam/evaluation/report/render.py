"""Content into pages. Templates escape everything that is not one of our own figures."""

from collections.abc import Sequence

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup

from sparse_sam.evaluation.report import accuracies, landscapes, mistakes, prose
from sparse_sam.evaluation.report.content import Content
from sparse_sam.evaluation.report.drawing import with_own_ids
from sparse_sam.evaluation.shown_arms import ARM_NAMES, COMPARISONS
from sparse_sam.evaluation.summary import primary
from sparse_sam.evaluation.words import p_in_words, signed
from sparse_sam.files import why_not

Figure = tuple[Markup, str]
"""An SVG element, and what it shows in words."""

_CAPTIONS = {
    "differences": "Paired differences: means with 95 % intervals, and a dot for each seed. A true "
    "difference inside the grey band is too small to matter",
    "accuracy": "Test accuracy by arm: one mark per seed, a seed's finetuned arms joined; beside "
    "them means with 95 % intervals",
    "cost": "Test accuracy against the cost of finetuning: one mark per network",
    "epochs": "Validation accuracy by epoch: means, in bands from the lowest seed to the highest",
    "gradients": "Validation accuracy by gradient evaluations, that is, at equal compute",
    "classes": "Difference in accuracy between {both} in each class, over all seeds",
    "confusion": "How the mistakes of {both} differ, by label and prediction, over all seeds",
    "pictures": "Test images on which {both} differ most: the label, then each seed's answer, in "
    "brackets if it is wrong",
    "layers": "Weights kept in each prunable tensor, first seed",
    "sharpness": "Sharpness by ρ: how much the loss rises along SAM's ε; small marks are seeds",
    "slice": "The loss along one filter-normalised direction, first seed",
    "surface": "The loss in a plane through the network of {arm}, first seed",
}


def render_html(content: Content) -> str:
    """The whole report as one page without any other file."""
    return _template("page.html.j2").render(
        content=content,
        prose=prose,
        names=ARM_NAMES,
        figures=_figures(content),
        dataset=content.summary["dataset"],
    )


def render_markdown(content: Content) -> str:
    """The short report for a pull request."""
    return _template("page.md.j2").render(content=content, prose=prose, names=ARM_NAMES)


def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("sparse_sam.evaluation.report", "."),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["points"] = lambda share: signed(100 * share)
    environment.filters["p"] = _p
    environment.filters["interval"] = _interval
    environment.filters["percent"] = lambda share: f"{100 * share:.2f}"
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    environment.filters["why_not"] = why_not
    return environment.get_template(name)


def _p(value: float | None) -> str:
    return "" if value is None else p_in_words(value)


def _interval(shares: Sequence[float] | None) -> str:
    """An interval of accuracies in percent, where it says something: no accuracy is above 1."""
    if shares is None:
        return "one seed has none"
    low, high = shares
    if low < 0 or high > 1:
        return "too few seeds"
    return f"[{100 * low:.2f}, {100 * high:.2f}]"


def _figures(content: Content) -> dict[str, list[Figure]]:
    """Every figure that there are numbers for, by the section that it stands in."""
    pair = "sam", COMPARISONS[primary(content.summary)][1]
    drawn: dict[str, dict[str, str | None]] = {
        "answer": {"differences": accuracies.differences(content.summary)},
        "accuracy": {
            "accuracy": accuracies.accuracy(content),
            "cost": accuracies.cost(content),
            "epochs": accuracies.curves(content, "epoch", "epoch"),
            "gradients": accuracies.curves(content, "gradient_evaluations", "gradient evaluations"),
        },
        "sparsity": {},
        "flatness": {},
        "mistakes": {
            "classes": accuracies.accuracy_by_class(content, *pair),
            "confusion": mistakes.confusion_difference(content, *pair),
            "pictures": mistakes.pictures(content, *pair),
        },
    }
    if content.compression and content.compression["layers"]:
        drawn["sparsity"]["layers"] = landscapes.kept_by_layer(content.compression["layers"])
    if content.flatness and why_not(content.flatness["arms"]["sam"]["sharpness"]) is None:
        drawn["flatness"]["sharpness"] = landscapes.sharpness(content.flatness)
    if content.slices:
        drawn["flatness"]["slice"] = landscapes.loss_slice(content.slices)
    for arm in dict.fromkeys(row["arm"] for row in content.surfaces):
        drawn["flatness"][f"surface-{arm}"] = landscapes.loss_surface(content.surfaces, arm)
    both = " and ".join(ARM_NAMES[arm] for arm in pair)
    return {
        section: [
            (
                Markup(with_own_ids(svg, name)),  # noqa: S704 - drawn by us
                _CAPTIONS[name.partition("-")[0]].format(
                    both=both, arm=ARM_NAMES.get(name.partition("-")[2], "")
                ),
            )
            for name, svg in shown.items()
            if svg
        ]
        for section, shown in drawn.items()
    }
