"""The section ``engine`` of ``params.yaml``: apart, for no training is made by it."""

from typing import TYPE_CHECKING, ClassVar

from sparse_sam.files import Section

if TYPE_CHECKING:
    from sparse_sam.training.engines import Engine


class EngineParams(Section):
    """Where trainings run; what makes their bits is no part of it.

    Attributes:
        only_cpus: whether ``device: cuda`` is an error.
    """

    only_cpus: ClassVar[bool] = False
    name: str

    def begin(self, threads: int) -> "Engine | None":
        """What computes trainings of so many threads; None does so in processes of this machine."""
        del threads
        return None


class ProcessesParams(EngineParams):
    """Side by side on the cores of this machine, or one after the other on its GPU."""


class RayParams(EngineParams):
    """On a cluster of Ray's, or on one that begins here where no address is given."""

    only_cpus: ClassVar[bool] = True
    address: str | None

    def begin(self, threads: int) -> "Engine":
        """Join the cluster. Raises SparseSamError if it is not reached."""
        from sparse_sam.training.on_ray import OnRay

        return OnRay(self.address, threads=threads)
