"""Content into pages. Templates escape everything that is not one of our own figures."""

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup

from sparse_sam.evaluation.report import figures, prose
from sparse_sam.evaluation.report.content import Content
from sparse_sam.files import why_not

Figure = tuple[Markup, str]
"""An SVG element, and what it shows in words."""

FINETUNED = ("sgd", "sam")


def render_html(content: Content) -> str:
    """The whole report as one page without any other file."""
    return _template("page.html.j2").render(
        content=content,
        prose=prose,
        names=figures.NAMES,
        figures=_figures(content),
        dataset=content.summary["dataset"],
    )


def render_markdown(content: Content) -> str:
    """The short report for a pull request."""
    return _template("page.md.j2").render(content=content, prose=prose, names=figures.NAMES)


def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("sparse_sam.evaluation.report", "."),
        autoescape=select_autoescape(enabled_extensions=("html.j2",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["points"] = lambda share: f"{100 * share:+.2f}".replace("-", "−")
    environment.filters["percent"] = lambda share: f"{100 * share:.2f}"
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    environment.filters["why_not"] = why_not
    return environment.get_template(name)


def _figures(content: Content) -> dict[str, list[Figure]]:
    """Every figure that there are numbers for, by the section that it stands in."""
    drawn: dict[str, list[tuple[str, str | None, str]]] = {
        "accuracy": [
            (
                "accuracy",
                figures.accuracy(content),
                "Test accuracy by arm: every seed a mark, beside it the mean and its 95 % interval",
            ),
            (
                "epochs",
                figures.curves(content, "epoch", "epoch"),
                "Validation accuracy against epochs: seeds thin, their mean thick",
            ),
            (
                "gradients",
                figures.curves(content, "gradient_evaluations", "gradient evaluations"),
                "The same against gradient evaluations, that is at equal compute",
            ),
        ],
        "sparsity": [],
        "flatness": [],
        "mistakes": [
            (
                f"confusion-{arm}",
                figures.confusions(content, arm),
                f"{figures.NAMES[arm]}: mistakes by label and prediction, over all seeds",
            )
            for arm in FINETUNED
        ],
        "pictures": [
            (
                "pictures",
                figures.pictures(content, *FINETUNED),
                "Test images on which SGD and SAM disagree most: their class, then the answers",
            )
        ],
    }
    if content.compression and content.compression["layers"]:
        caption = "Weights kept in every prunable tensor, first seed"
        layers = figures.kept_by_layer(content.compression["layers"])
        drawn["sparsity"] = [("layers", layers, caption)]
    if content.flatness and why_not(content.flatness["arms"][FINETUNED[0]]["sharpness"]) is None:
        caption = "Sharpness by ρ: how much the loss rises along SAM's ε, every seed a mark"
        drawn["flatness"].append(("sharpness", figures.sharpness(content.flatness), caption))
    if content.slices:
        caption = "The loss along one filter-normalised direction, first seed"
        drawn["flatness"].append(("slice", figures.loss_slice(content.slices), caption))
    for arm in dict.fromkeys(row["arm"] for row in content.surfaces):
        caption = f"The loss in a plane through the network of {figures.NAMES[arm]}, first seed"
        surface = figures.loss_surface(content.surfaces, arm)
        drawn["flatness"].append((f"surface-{arm}", surface, caption))
    return {
        section: [
            (Markup(figures.with_own_ids(svg, name)), caption)  # noqa: S704 - drawn by us
            for name, svg, caption in shown
            if svg
        ]
        for section, shown in drawn.items()
    }
