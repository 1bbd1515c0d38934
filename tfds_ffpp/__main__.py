"""`python -m tfds_ffpp`: builds a dataset as `tfds build` does, without TensorFlow."""

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from typing import Any

from tfds_ffpp import card, packaging, system
from tfds_ffpp.build import BuildOptions, build
from tfds_ffpp.errors import SettingError
from tfds_ffpp.fields import Fields
from tfds_ffpp.terminal import command
from tfds_ffpp.tfds_ffpp_dataset_builder import NAMED_CONFIGS, FfppConfig
from tfds_ffpp.workers import limits


def make_config(text: str, changes: Sequence[str]) -> FfppConfig:
    """A named config or one given as JSON, with field=value changes.

    Raises SettingError.
    """
    fields = {f.name: f for f in dataclasses.fields(FfppConfig)}
    values: Fields = {}
    if text.startswith("{"):
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise SettingError(f"--config is not JSON ({error})") from None
        base = FfppConfig(name=str(values.get("name", "custom")))
    elif text in NAMED_CONFIGS:
        base = NAMED_CONFIGS[text]
    else:
        # A dataset of one's own under its own name.
        base = FfppConfig(name=text)
    for change in changes:
        name, _, value = change.partition("=")
        values[name] = _parse(value, getattr(base, name, None))
    unknown = [name for name in values if name not in fields]
    if unknown:
        raise SettingError(
            f"{unknown[0]} is not a field of the config; the fields are "
            f"{', '.join(sorted(base.content()))}"
        )
    try:
        return dataclasses.replace(base, **values)
    except (TypeError, ValueError) as error:
        raise SettingError(f"the config is not valid: {error}") from None


def _parse(text: str, like: Any) -> Any:
    """The text as a value of the type of `like`."""
    if isinstance(like, tuple):
        return tuple(word for word in text.strip("[]()").split(",") if word)
    if isinstance(like, str):
        return text
    try:
        return json.loads(text.lower())
    except json.JSONDecodeError:
        return text  # its own check says what is wrong


def parse_args(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    parser.add_argument("--manual_dir", required=True, help="the raw videos")
    parser.add_argument(
        "--data_dir", default="~/tensorflow_datasets", help="where datasets lie"
    )
    parser.add_argument(
        "--config", default="c23", help=f"{', '.join(NAMED_CONFIGS)}, a name, or JSON"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", dest="changes"
    )
    parser.add_argument("--layout", help="how the videos are arranged")
    parser.add_argument(
        "--map", metavar="A=real,B=fake", help="what folders of other names hold"
    )
    parser.add_argument(
        "--protocol",
        help="official, disjoint, folders, all_test or repeated",
    )
    parser.add_argument("--num_processes", type=int, help="default: one per core")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace it once the new one is whole"
    )
    parser.add_argument("--keep_cache", action="store_true", help="of prepared videos")
    parser.add_argument(
        "--time_limit", type=float, default=packaging.TIME_LIMIT, help="s per video"
    )
    parser.add_argument(
        "--memory_limit",
        type=float,
        default=limits.MEMORY / 2**30,
        help="GiB per video",
    )
    parser.add_argument(
        "--beam_pipeline_options", help="prepare by Apache Beam: comma-separated flags"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser.parse_args(argv)


def _beam_options(flags: str | None) -> Any:
    if flags is None:
        return None
    try:
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise SettingError(
            "--beam_pipeline_options needs apache-beam: pip install apache-beam"
        ) from None
    return PipelineOptions(flags=[f"--{flag}" for flag in flags.split(",")])


def main(
    argv: Sequence[str] | None = None, *, prog: str = "python -m tfds_ffpp"
) -> int:
    """Builds; returns the exit code."""
    return command.run(lambda: parse_args(argv, prog), _run)


def _run(args: argparse.Namespace) -> int:
    logging.getLogger("absl").setLevel(logging.ERROR)
    short = {"layout": args.layout, "map": args.map, "protocol": args.protocol}
    changes = [f"{name}={value}" for name, value in short.items() if value is not None]
    for name in ("data_dir", "manual_dir"):
        system.refuse_path(f"--{name}", getattr(args, name))
    try:
        builder = build(
            make_config(args.config, [*changes, *args.changes]),
            data_dir=args.data_dir,
            manual_dir=args.manual_dir,
            num_processes=args.num_processes,
            options=BuildOptions(
                keep_cache=args.keep_cache,
                overwrite=args.overwrite,
                time_limit=args.time_limit,
                memory_limit=int(args.memory_limit * 2**30),
                beam_options=_beam_options(args.beam_pipeline_options),
            ),
        )
    except KeyboardInterrupt as end:
        end.add_note("the same command goes on where this stopped")
        raise
    sys.stdout.write(card.summary(builder.data_path))
    return 0


if __name__ == "__main__":
    sys.exit(main())
