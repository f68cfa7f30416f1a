"""Measure every arm on the test set, and compare the arms."""

from functools import partial
from itertools import product
from typing import Any

from sparse_sam.stages.runner import Stage, main

FINETUNED = ("sgd", "sgd_2x", "sam")
"""The arms whose histories are shown."""


def work(stage: Stage) -> None:
    """Test every arm and seed once, compare, and write that; then measure what else there is."""
    from sparse_sam.training import evaluate, prepare_workers, select_device

    prepare_workers()
    import torch

    from sparse_sam.data import load_test_data
    from sparse_sam.evaluation import (
        as_tags,
        base_in_words,
        compare_arms,
        described,
        headline,
        in_points,
        sharpness_by_arm,
        step_memory,
    )
    from sparse_sam.files import read_json, write_json
    from sparse_sam.stages.extras import measure_extras
    from sparse_sam.terminal import activity
    from sparse_sam.tracking import MADE_BY, PIPELINE, layout

    params, journal, seeds, arms = stage.params, stage.journal, stage.params.seeds, tuple(MADE_BY)
    torch.set_num_threads(params.threads)
    device = select_device(params.device)
    data = load_test_data(layout.dataset).to(device)
    info = data.info
    journal.dataset(name=info.source, fingerprint=info.fingerprint, context="evaluation")
    load = partial(layout.load_arm, info=info, model=params.model.network)
    # (It imports torch while one core tests the networks, and measures when the result is there.)
    with step_memory() as measure_memory:
        tested, jobs = {}, list(product(arms, seeds))
        with activity("testing", len(jobs), "networks") as doing:
            for job in jobs:
                tested[job] = evaluate(load(*job).build().to(device), data.test)
                doing.advance()
        for seed in seeds:
            journal.child(f"seed {seed}", {"seed": seed})
            values = {f"test_accuracy.{arm}": tested[arm, seed].accuracy for arm in arms}
            journal.metrics(values, child=f"seed {seed}")
            journal.child_end(f"seed {seed}")
        with activity("comparing the arms"):
            metrics, summary, predictions = compare_arms(
                tested,
                data.test.labels.cpu().numpy(),
                dataset=info.source,
                model=str(params.model.network),
                seeds=seeds,
                costs={
                    arm: read_json(layout.metrics(made_by), cure=f"Run `dvc repro {made_by}`.")[arm]
                    for arm, made_by in MADE_BY.items()
                },
                margin=params.evaluate.equivalence_margin,
                base=base_in_words(params.finetune.training.base_optimizer),
                given=_different(load, seeds) if params.model.checkpoint else None,
            )
        # The result first: whatever becomes of the rest, it is there.
        written = {"evaluate": metrics, "summary": summary}
        for name, content in written.items():
            write_json(layout.metrics(name), content)
        for target in (None, PIPELINE):
            journal.metrics(headline(summary), child=target)
        journal.metrics(in_points(summary), child=PIPELINE)
        journal.tags(as_tags(summary), child=PIPELINE)
        journal.note(described(summary), child=PIPELINE)
        extras = measure_extras(stage, load, data, summary, measure_memory)
        flat = sharpness_by_arm(extras["flatness"], params.finetune.sam.rho)
        journal.metrics(flat, child=PIPELINE)
        with activity("writing the report"):
            _write_report(stage, data, summary, predictions, extras)
        journal.artifact(layout.report, child=PIPELINE)
        for name in (*written, *extras):
            journal.artifact(layout.metrics(name))


def _different(load: Any, seeds: Any) -> int:
    """How many different dense networks the seeds have."""
    from hashlib import sha256

    from sparse_sam.files import tensors_to_bytes

    return len({sha256(tensors_to_bytes(load("dense", seed).state)).digest() for seed in seeds})


def shown(params: dict[str, Any]) -> dict[str, Any]:
    """Those of all parameters, flat, that the report shows.

    This stage does not run again when the others change, so it would show what they were.
    """
    from sparse_sam.tracking import CHANGE_NO_RESULT

    hidden = tuple(f"{name}." for name in CHANGE_NO_RESULT)
    return {name: value for name, value in params.items() if not f"{name}.".startswith(hidden)}


def _write_report(stage: Stage, data: Any, summary: Any, predictions: Any, extras: Any) -> None:
    """Write ``reports/``, from this stage's numbers and the files of those before it."""
    from sparse_sam.config import REFERENCE, load_params
    from sparse_sam.evaluation import Content, read_rows, render_html, render_markdown
    from sparse_sam.files import write_text
    from sparse_sam.tracking import STAGES, differences, in_short, layout, read_provenance

    content = Content(
        summary=summary,
        params=shown(stage.params.flat()),
        fingerprint=data.info.fingerprint,
        histories={arm: read_rows(layout.history(arm)) for arm in FINETUNED},
        provenance=read_provenance(STAGES[name] for name in STAGES[stage.name].before),
        slices=[row for row in read_rows(layout.slices) if row["loss"]],
        surfaces=[row for row in read_rows(layout.surfaces) if row["loss"]],
        labels=data.test.labels.cpu().numpy(),
        predictions=predictions,
        images=data.test.images.cpu().numpy(),
        classes=data.info.classes,
        changed=in_short(differences(stage.params, load_params(REFERENCE))) or "nothing",
        is_ticket=stage.params.prune.schedule.rewinds_to == "initial",
        came_sparse=stage.params.prune.takes_zeros,
        **extras,
    )
    write_text(layout.report, render_html(content))
    write_text(layout.report.with_suffix(".md"), render_markdown(content))


if __name__ == "__main__":
    main("evaluate", __doc__, work)
