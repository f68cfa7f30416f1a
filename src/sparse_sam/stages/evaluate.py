"""Measure every arm on the test set, and compare the arms."""

from functools import partial
from itertools import product
from typing import Any

from sparse_sam.stages.runner import Stage, main

FINETUNED, PICTURED = ("sgd", "sgd_2x", "sam"), ("sgd", "sam")
"""The arms whose histories are shown, and those whose loss surfaces are."""
NOT_SHOWN = ("engine", "save_every_steps", "data.mirror", "data.folder", "registry")
"""Parameters, or sections of them, that change no result: this stage does not run again when they
change, so the report would show what they were."""


def work(stage: Stage) -> None:
    """Test every arm and seed once, compare, measure, and write metrics and report."""
    from sparse_sam.training import evaluate, prepare_workers, select_device

    prepare_workers()
    import torch
    from tqdm import tqdm

    from sparse_sam.data import load_test_data
    from sparse_sam.evaluation import (
        compare_arms,
        finetuning_cost,
        headline,
        measure_arms,
        step_memory,
    )
    from sparse_sam.export import compression_metrics
    from sparse_sam.files import read_json, write_csv, write_json
    from sparse_sam.tracking import MADE_BY, PIPELINE, layout

    params, journal, seeds, arms = stage.params, stage.journal, stage.params.seeds, tuple(MADE_BY)
    threads, device = params.threads, select_device(params.device)
    torch.set_num_threads(threads)
    data = load_test_data(layout.dataset).to(device)
    info = data.info
    journal.dataset(name=info.source, fingerprint=info.fingerprint, context="evaluation")
    load = partial(layout.load_arm, info=info, model=params.model.name)
    tested = {}
    with step_memory(load("pruned", seeds[0]), params.finetune) as memory:
        for job in tqdm(list(product(arms, seeds)), desc=stage.name, unit="model", disable=None):
            tested[job] = evaluate(load(*job).build().to(device), data.test)
        flatness, slices, surfaces = measure_arms(
            load,
            layout.dataset,
            arms,
            seeds,
            pictured=PICTURED,
            threads=threads,
            name=stage.name,
        )
        peaks = memory()
    for seed in seeds:
        journal.child(f"seed {seed}", {"seed": seed})
        values = {f"test_accuracy.{arm}": tested[arm, seed].accuracy for arm in arms}
        journal.metrics(values, child=f"seed {seed}")
        journal.child_end(f"seed {seed}")
    metrics, summary, predictions = compare_arms(
        tested,
        data.test.labels.cpu().numpy(),
        dataset=info.source,
        model=params.model.name,
        seeds=seeds,
        costs={
            arm: read_json(layout.metrics(made_by), cure=f"Run `dvc repro {made_by}`.")[arm]
            for arm, made_by in MADE_BY.items()
        },
        margin=params.evaluate.equivalence_margin,
    )
    networks, images = (load("dense", seeds[0]), load("sgd", seeds[0])), data.test.images.cpu()
    measured = {
        "flatness": flatness,
        "cost": finetuning_cost(summary, peaks),
        "compression": compression_metrics(*networks, images, params.evaluate.latency_seconds),
    }
    written = {"evaluate": metrics, "summary": summary, **measured}
    for name, content in written.items():
        write_json(layout.metrics(name), content)
    write_csv(layout.slices, ["arm", "seed", "x", "loss"], slices)
    write_csv(layout.surfaces, ["arm", "seed", "x", "y", "loss"], surfaces)
    _write_report(stage, data, summary, predictions, measured)
    for target in (None, PIPELINE):
        journal.metrics(headline(summary), child=target)
    journal.artifact(layout.report, child=PIPELINE)
    for name in written:
        journal.artifact(layout.metrics(name))


def shown(params: dict[str, Any]) -> dict[str, Any]:
    """Those of all parameters, flat, that the report shows."""
    hidden = tuple(f"{name}." for name in NOT_SHOWN)
    return {name: value for name, value in params.items() if not f"{name}.".startswith(hidden)}


def _write_report(stage: Stage, data: Any, summary: Any, predictions: Any, measured: Any) -> None:
    """Write ``reports/``, from this stage's numbers and the files of those before it."""
    from sparse_sam.evaluation import Content, read_rows, render_html, render_markdown
    from sparse_sam.files import write_text
    from sparse_sam.tracking import STAGES, layout, read_provenance

    images = data.test.images.cpu()[:, 0] * data.info.std + data.info.mean
    content = Content(
        summary=summary,
        params=shown(stage.params.flat()),
        fingerprint=data.info.fingerprint,
        histories={arm: read_rows(layout.history(arm)) for arm in FINETUNED},
        provenance=read_provenance(STAGES[name] for name in STAGES[stage.name].before),
        slices=read_rows(layout.slices),
        surfaces=read_rows(layout.surfaces),
        labels=data.test.labels.cpu().numpy(),
        predictions=predictions,
        images=images.numpy(),
        is_ticket=stage.params.prune.schedule.rewinds_to == "initial",
        **measured,
    )
    write_text(layout.report, render_html(content))
    write_text(layout.report.with_suffix(".md"), render_markdown(content))


if __name__ == "__main__":
    main("evaluate", __doc__, work)
