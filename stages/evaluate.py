"""Measure every arm on the test set, and compare the arms."""

from stages import layout
from stages.runner import Stage, main

MADE_BY = {
    "dense": "train_dense",
    "pruned": "prune",
    "sgd": "finetune_sgd",
    "sgd_2x": "finetune_sgd",
    "sam": "finetune_sam",
}
OUTPUTS = (
    layout.metrics("evaluate"),
    layout.SUMMARY,
    layout.metrics("flatness"),
    layout.metrics("compression"),
    layout.metrics("cost"),
    layout.SLICE,
    layout.SURFACE,
    layout.REPORT.parent,
)


def work(stage: Stage) -> None:
    """Test every arm and seed once, and write the summary."""
    from sparse_sam.parallel import begin_to_start

    begin_to_start()
    from itertools import product

    import numpy as np
    import torch
    from tqdm import tqdm

    from sparse_sam.compute import select_device
    from sparse_sam.dataset import load_test_data
    from sparse_sam.files import read_json, write_json
    from sparse_sam.journal import PIPELINE
    from sparse_sam.peak_memory import step_memory
    from sparse_sam.statistics import summarize
    from sparse_sam.summary import headline, summarize_experiment
    from sparse_sam.training import evaluate
    from stages.reporting import measure_compression, measure_cost, measure_flatness, write_report
    from stages.training import load_arm

    journal, seeds, name = stage.journal, stage.params.seeds, stage.params.model.name
    device = select_device(stage.params.device)
    torch.set_num_threads(stage.params.threads)
    data = load_test_data(layout.DATASET).to(device)
    journal.dataset(name=data.info.source, fingerprint=data.info.fingerprint, context="evaluation")
    tested, labels = {}, data.test.labels.cpu().numpy()
    models = list(product(MADE_BY, seeds))
    pruned = load_arm("pruned", seeds[0], data.info, MADE_BY["pruned"], name)
    with step_memory(pruned, stage.params.finetune) as memory:
        for arm, seed in tqdm(models, desc=stage.name, unit="model", disable=None):
            checkpoint = load_arm(arm, seed, data.info, MADE_BY[arm], name)
            tested[arm, seed] = evaluate(checkpoint.build().to(device), data.test)
        flatness = measure_flatness(stage, MADE_BY)
        peaks = memory()
    for seed in seeds:
        journal.child(f"seed {seed}", {"seed": seed})
        values = {f"test_accuracy.{arm}": tested[arm, seed].accuracy for arm in MADE_BY}
        journal.metrics(values, child=f"seed {seed}")
        journal.child_end(f"seed {seed}")
    metrics = {
        arm: {
            "test_accuracy": summarize([tested[arm, seed].accuracy for seed in seeds]),
            "test_loss": summarize([tested[arm, seed].loss for seed in seeds]),
        }
        for arm in MADE_BY
    }
    predictions = {
        arm: np.stack([tested[arm, seed].predictions.numpy() for seed in seeds]) for arm in MADE_BY
    }
    stages = {
        name: read_json(layout.metrics(name), cure=f"Run `dvc repro {name}`.")
        for name in set(MADE_BY.values())
    }
    summary = summarize_experiment(
        dataset=data.info.source,
        model=checkpoint.origin.model,
        seeds=list(seeds),
        accuracy={arm: metrics[arm]["test_accuracy"] for arm in MADE_BY},
        correct={arm: predictions[arm] == labels for arm in MADE_BY},
        costs={arm: stages[made_by][arm] for arm, made_by in MADE_BY.items()},
        margin=stage.params.evaluate.equivalence_margin,
    )
    write_json(layout.metrics("evaluate"), metrics)
    write_json(layout.SUMMARY, summary)
    measured = {
        "flatness": flatness,
        "cost": measure_cost(summary, peaks),
        "compression": measure_compression(stage, data, MADE_BY),
    }
    write_report(stage, data, summary, predictions, measured)
    for target in (None, PIPELINE):
        journal.metrics(headline(summary), child=target)
    journal.artifact(layout.REPORT, child=PIPELINE)
    for path in (layout.SUMMARY, *map(layout.metrics, ("evaluate", *measured))):
        journal.artifact(path)


if __name__ == "__main__":
    main("evaluate", __doc__, OUTPUTS, work)
