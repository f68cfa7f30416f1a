"""``obs`` for pruning little by little while a network is finetuned."""

from sparse_sam.pruning import OBS


class OBSOnce(OBS):
    """Weights of one update go by one statistic, not in stages: there are many updates instead."""

    def __init__(self) -> None:
        super().__init__(until=1.0)
