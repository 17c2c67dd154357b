"""Which steps of the cleaning are on."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from usfm.config import Config

__all__ = ["Action", "CleanConfig", "prepared_as"]

Action = Literal["off", "flag", "drop"]


class CleanConfig(Config):
    """The steps of the cleaning; each can be switched off.

    Attributes:
        crop: cut off the screen around the ultrasound picture.
        text: text, rulers and calipers over the picture: "flag" notes them, "mask" paints them over, too.
        doppler: frames with colour or power Doppler.
        doppler_share: of the kept region that is coloured by area; more than that is Doppler.
        frozen: frames that are the same as the frame before them in the file.
        frozen_change: mean change, in grey levels of what is lit, up to which a frame is the same.
        blank: frames without a picture.
        blank_std: standard deviation of the grey levels below which a frame is blank.
    """

    crop: bool = True
    text: Literal["off", "flag", "mask"] = "mask"
    doppler: Action = "flag"
    doppler_share: float = Field(default=0.01, gt=0, lt=1)
    frozen: Action = "drop"
    frozen_change: float = Field(default=0.25, ge=0)
    blank: Literal["off", "drop"] = "drop"
    blank_std: float = Field(default=2.0, ge=0)


def prepared_as(prepare: Mapping[str, Any]) -> dict[str, Any]:
    """What a model has to know of its training images, as the fields `clean` and `stored_px` of a bundle.

    Args:
        prepare: `ShardIndex.prepare`; shards of older versions say nothing, and were not cleaned.
    """
    clean = prepare.get("clean")
    return {
        "clean": None if clean is None else CleanConfig.build(clean),
        "stored_px": prepare.get("longest_side_px"),
    }
