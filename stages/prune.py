"""Prune every dense network, as far as the schedule asks before finetuning."""

from stages import layout
from stages.runner import Stage, main

ARM = "pruned"
OUTPUTS = (layout.models(ARM), layout.metrics("prune"))


def work(stage: Stage) -> None:
    """Write the pruned checkpoints with their masks, and the counts of every layer."""
    import time

    import torch

    from sparse_sam.checkpoint import save_checkpoint
    from sparse_sam.dataset import load_training_data
    from sparse_sam.experiment import prune
    from sparse_sam.files import atomic_folder, write_json
    from sparse_sam.results import layer_counts, sparsity_metrics
    from stages.training import load_arm, report_checkpoints

    journal = stage.journal
    torch.set_num_threads(stage.params.threads)
    data = load_training_data(layout.DATASET)
    info = data.info
    journal.dataset(name=info.source, fingerprint=info.fingerprint, context="training")
    pruned, seconds = [], []
    with atomic_folder(layout.models(ARM)) as folder:
        for seed in stage.params.seeds:
            child = f"{ARM} seed {seed}"
            journal.child(child, {"arm": ARM, "seed": seed})
            dense = load_arm("dense", seed, info, "train_dense", stage.params.model.name)
            started = time.perf_counter()
            pruned.append(prune(dense, stage.params.prune, data))
            seconds.append(time.perf_counter() - started)
            journal.metrics(sparsity_metrics(pruned[-1:]), child=child)
            save_checkpoint(folder / layout.checkpoint(ARM, seed).name, pruned[-1])
    metrics = sparsity_metrics(pruned)
    journal.metrics(metrics)
    cost = {"gradient_evaluations": 0, "seconds": round(sum(seconds) / len(seconds), 4)}
    metrics_file = {ARM: {**metrics, **cost, "layers": layer_counts(pruned)}}
    write_json(layout.metrics("prune"), metrics_file)
    report_checkpoints(stage, [ARM])


if __name__ == "__main__":
    main("prune", __doc__, OUTPUTS, work)
