"""Get the digits, split them, and write one typed data set."""

from stages import layout
from stages.runner import Stage, main

OUTPUTS = (layout.DATASET, layout.metrics("download"))


def work(stage: Stage) -> None:
    """Write the data set, and what it holds as metrics."""
    from sparse_sam.files import write_json
    from sparse_sam.parts import save_dataset
    from sparse_sam.sources import load_raw
    from sparse_sam.splitting import build_dataset

    dataset = build_dataset(load_raw(stage.params.data), stage.params.data)
    save_dataset(layout.DATASET, dataset)
    info = dataset.info
    images = {part: sum(counts) for part, counts in info.counts.items()}
    write_json(layout.metrics("download"), {"images": images, **info.to_json()})
    stage.journal.dataset(name=info.source, fingerprint=info.fingerprint, context="training")
    stage.journal.metrics({f"images.{part}": float(count) for part, count in images.items()})


if __name__ == "__main__":
    main("download", __doc__, OUTPUTS, work)
