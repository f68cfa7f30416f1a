"""The section ``data`` of ``params.yaml``."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sparse_sam.data.registry import SOURCES
from sparse_sam.errors import ConfigError
from sparse_sam.files import BelowOne, Fraction, Section, Seed
from sparse_sam.redaction import has_login


def _check_open(key: str, value: str | None) -> None:
    """Parameters are written into dvc.lock and shown in MLflow."""
    if value and (has_login(value) or ("://" in value and ("?" in value or "#" in value))):
        raise ValueError(
            f"{key} holds a login, a query or a fragment, so its value is not shown here: "
            "parameters are written into dvc.lock and MLflow. Allowed: null, a folder, or a URL "
            "without these. Put a login into ~/.netrc: machine HOST login NAME password PASSWORD"
        )


class DataParams(Section):
    """Which images, how many of them, and how they are split."""

    source: Annotated[str, SOURCES]
    fraction: Fraction
    validation_fraction: BelowOne
    test_fraction: BelowOne
    split_seed: Seed
    folder: str | None
    mirror: str | None
    channels: Literal[1, 3] | None
    image_size: Annotated[int | None, Field(ge=1, le=4096)]

    @model_validator(mode="after")
    def _fits_its_source(self) -> Self:
        _check_open("mirror", self.mirror)
        _check_open("folder", self.folder)
        try:
            source = SOURCES.load(self.source)
        except ConfigError as error:
            raise ValueError(str(error).removeprefix("data.")) from None
        # A plain function, as of one's own, takes either as it likes.
        reads_folder = getattr(source, "reads_folder", None)
        if reads_folder and not self.folder:
            raise ValueError(
                f"folder = {self.folder!r}: source {self.source} needs the folder with its files"
            )
        if reads_folder is False and self.folder is not None:
            raise ValueError(
                f"folder = {self.folder!r}: source {self.source} reads no folder; allowed: null"
            )
        if getattr(source, "has_mirrors", None) is False and self.mirror is not None:
            raise ValueError(
                f"mirror = {self.mirror!r}: source {self.source} downloads nothing; allowed: null"
            )
        if getattr(source, "decodes", None) is False:
            for key in ("channels", "image_size"):
                if (value := getattr(self, key)) is not None:
                    raise ValueError(
                        f"{key} = {value}: source {self.source} gives pixels as they are; allowed: "
                        "null"
                    )
        return self
