"""The digest of a batch: every change of content is seen, and the order in which parts are added is not."""

import pytest
import torch

from usfm.data.sample_digest import DIGEST_BITS, batch_digest


def batch(side: int = 17) -> dict[str, torch.Tensor]:  # 289 pixels: no multiple of eight
    draw = torch.Generator().manual_seed(3)
    numbers = {name: torch.randint(1, 60, (6,), generator=draw) for name in ("organ", "height", "width")}
    image = torch.randint(0, 256, (6, side, side), dtype=torch.uint8, generator=draw)
    return {"index": torch.arange(6), "image": image, **numbers}


@pytest.mark.parametrize("name", ["index", "organ", "height", "width"])
def test_every_number_counts(name: str) -> None:
    changed = batch()
    changed[name][4] += 1
    assert batch_digest(changed) != batch_digest(batch())


@pytest.mark.parametrize("place", [(0, 0), (8, 3), (16, 16)])
def test_every_pixel_counts(place: tuple[int, int]) -> None:
    changed = batch()
    changed["image"][2][place] ^= 1
    assert batch_digest(changed) != batch_digest(batch())


def test_exchanged_and_repeated_images_are_seen() -> None:
    exchanged, repeated = batch(), batch()
    exchanged["image"][[1, 2]] = exchanged["image"][[2, 1]]
    repeated["image"][1] = repeated["image"][2]
    assert len({float(batch_digest(b)) for b in (batch(), exchanged, repeated)}) == 3


def test_parts_add_up_in_any_order_and_stay_exact() -> None:
    whole, order = batch(), torch.tensor([3, 0, 5, 1, 4, 2])
    digest = batch_digest(whole)
    assert 0 <= digest < 1 << DIGEST_BITS
    assert digest.item().is_integer()
    assert batch_digest({name: tensor[order] for name, tensor in whole.items()}) == digest
    parts = [batch_digest({name: tensor[k : k + 2] for name, tensor in whole.items()}) for k in (4, 0, 2)]
    assert sum(parts) % (1 << DIGEST_BITS) == digest
