"""Command line: python -m tfds_ffpp.synthetic OUT."""

import argparse
import sys
from collections.abc import Sequence

from tfds_ffpp import system
from tfds_ffpp.synthetic import forgeries, looks, tree
from tfds_ffpp.terminal import command


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tfds_ffpp.synthetic", description=__doc__
    )
    parser.add_argument("out", help="an empty folder, or one to complete")
    parser.add_argument("--num_identities", type=int, default=64)
    parser.add_argument("--num_frames", type=int, default=40, help="longest video")
    parser.add_argument("--frame_size", type=int, default=224, help="pixels, square")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--look",
        default="indoor",
        choices=list(looks.LOOKS),
        help="scene, light and camera: two looks are as two datasets",
    )
    parser.add_argument(
        "--difficulty", type=float, default=0.3, help="0 easy .. 1 subtle"
    )
    parser.add_argument(
        "--compressions", nargs="+", default=["c23"], choices=list(tree.CRF)
    )
    parser.add_argument(
        "--methods", nargs="+", default=list(tree.FOUR), choices=list(forgeries.METHODS)
    )
    parser.add_argument("--split_shares", nargs=3, type=float, default=[0.6, 0.2, 0.2])
    parser.add_argument("--num_processes", type=int, default=None)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; 0, or 3 when the folder or a parameter is at fault."""
    return command.run(lambda: _parse(argv), _run)


def _run(args: argparse.Namespace) -> int:
    flags = vars(args)
    out = flags.pop("out")
    system.refuse_path("OUT", out)
    root = tree.write_tree(out, **flags)
    print(f"{root}: {sum(1 for _ in root.rglob('*.mp4'))} videos")
    return 0


if __name__ == "__main__":
    sys.exit(main())
