"""The panels of a run on images of the built-in simulator, which may be shown anywhere.

usfm ingest input=SIMULATED output=SHARDS     # SIMULATED: made by --make
python tests/benchmarks/simulated_panels.py --make SIMULATED
python tests/benchmarks/simulated_panels.py --run RUN --shards SHARDS --out docs/figures/panels_simulated.jpg
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2

from usfm.data.simulate import write_archive
from usfm.report.panels import reconstruction_panels
from usfm.train.observe.panel_figure import panel_figure

ORGANS = ("breast", "carotid", "fetal_head", "heart", "lung", "muscle")
WIDTH_PX = 1100


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--make", type=Path, help="folder for a small simulated archive")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--shards", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(argv)
    if args.make:
        print(write_archive(args.make, dict.fromkeys(ORGANS, 24), packaged=False))
        return
    panels = reconstruction_panels(args.run, organs=len(ORGANS), shards=args.shards)
    for panel in panels:
        print(f"{panel.organ:12} error {panel.error:.3f}, of the fill alone {panel.error_fill:.3f}")
    picture = panel_figure(panels, f"{args.run.name}, simulated images")[..., ::-1]
    small = cv2.resize(picture, None, fx=WIDTH_PX / picture.shape[1], fy=WIDTH_PX / picture.shape[1],
                       interpolation=cv2.INTER_AREA)  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(args.out), small, [cv2.IMWRITE_JPEG_QUALITY, 85])


if __name__ == "__main__":
    main()
