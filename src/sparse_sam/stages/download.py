"""Get the images, split them, and write one typed data set."""

from sparse_sam.stages.runner import Stage, main


def work(stage: Stage) -> None:
    """Write the data set, and what it holds as metrics."""
    from sparse_sam.data import build_dataset, load_raw, save_dataset
    from sparse_sam.files import write_json
    from sparse_sam.terminal import activity
    from sparse_sam.tracking import layout

    data = stage.params.data
    with activity("getting the images"):
        # Beside the file that becomes of it, where there must be room for one.
        raw = load_raw(data, layout.dataset.parent)
    with activity("splitting the images"):
        dataset = build_dataset(raw, data)
        save_dataset(layout.dataset, dataset)
    info = dataset.info
    images = {part: sum(counts) for part, counts in info.counts.items()}
    write_json(layout.metrics("download"), {"images": images, **info.to_json()})
    stage.journal.dataset(name=info.source, fingerprint=info.fingerprint, context="training")
    stage.journal.metrics({f"images.{part}": float(count) for part, count in images.items()})
    stage.journal.artifact(layout.metrics("download"))  # the names of the classes are there


if __name__ == "__main__":
    main("download", __doc__, work)
