"""Prune every dense network, as far as the schedule asks before finetuning."""

from sparse_sam.stages.runner import Stage, main


def work(stage: Stage) -> None:
    """Write the pruned checkpoints with their masks, and the counts of every layer."""
    import time

    import torch

    from sparse_sam.data import load_training_data
    from sparse_sam.files import atomic_folder, write_json
    from sparse_sam.stages.training import report_checkpoints
    from sparse_sam.terminal import activity
    from sparse_sam.tracking import layout
    from sparse_sam.training import (
        DENSE,
        PRUNED,
        layer_counts,
        prune,
        save_checkpoint,
        sparsity_metrics,
    )

    journal = stage.journal
    torch.set_num_threads(stage.params.threads)
    data = load_training_data(layout.dataset)
    info = data.info
    journal.dataset(name=info.source, fingerprint=info.fingerprint, context="training")
    pruned, seconds, seeds = [], [], stage.params.seeds
    with (
        atomic_folder(layout.models(PRUNED)) as folder,
        activity("pruning", len(seeds), "networks") as doing,
    ):
        for number, seed in enumerate(seeds, start=1):
            doing.now(f"pruning, seed {number} of {len(seeds)}")
            child = f"{PRUNED} seed {seed}"
            journal.child(child, {"arm": PRUNED, "seed": seed})
            dense = layout.load_arm(DENSE, seed, info, stage.params.model.network)
            started = time.perf_counter()
            pruned.append(prune(dense, stage.params.prune, data))
            seconds.append(time.perf_counter() - started)
            journal.metrics(sparsity_metrics(pruned[-1:]), child=child)
            save_checkpoint(folder / layout.checkpoint(PRUNED, seed).name, pruned[-1])
            doing.advance()
    metrics = sparsity_metrics(pruned)
    journal.metrics(metrics)
    cost = {"gradient_evaluations": 0, "seconds": round(sum(seconds) / len(seconds), 4)}
    layers = layer_counts(pruned)
    write_json(layout.metrics("prune"), {PRUNED: {**metrics, **cost, "layers": layers}})
    report_checkpoints(stage)


if __name__ == "__main__":
    main("prune", __doc__, work)
