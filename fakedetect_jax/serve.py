"""Serves a page and a JSON service that score videos with a trained model.

python -m fakedetect_jax.serve --workdir runs/demo

The page is for people, /v1 for programs, /docs describes it.
"""

import argparse
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from fakedetect_jax.errors import CheckpointError, ConfigError
from fakedetect_jax.service import options as settings
from fakedetect_jax.service.options import Options, Scoring, Serving
from tfds_ffpp import system
from tfds_ffpp.errors import Interrupted
from tfds_ffpp.terminal import command

DEMO = Path("runs/demo")
NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
TOKEN = "FAKEDETECT_TOKEN"  # noqa: S105 - the name of a variable
STORE = "FAKEDETECT_STORE"  # keeps a password out of the list of processes


def parse_arguments(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """The command line; a wrong one exits with 2."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="A page and a JSON service that score videos. A score is a hint, "
        "never a proof.",
        epilog="Exit codes: 2 wrong usage, 3 the data folder or the store cannot be "
        "used, 4 the model cannot be used, 130 or 143 ended by a signal.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--workdir", metavar="W", help="the workdir of a training run")
    where.add_argument("--model", metavar="DIR", help="a folder that export wrote")
    parser.add_argument("--step", type=int, help="checkpoint; the best if not set")
    _add_network(parser)
    _add_limits(parser)
    _add_scoring(parser)
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.add_argument("--child", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def _add_network(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("network")
    group.add_argument(
        "--host", default="127.0.0.1", help="address to listen at (127.0.0.1)"
    )
    group.add_argument(
        "--port", type=int, default=8000, help="0 takes a free one (8000)"
    )
    group.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="HOST",
        help="a name by which the service may be called, besides its address; * is any",
    )
    group.add_argument(
        "--token_file",
        metavar="FILE",
        help=f"holds the bearer token that is asked for; else {TOKEN} may",
    )
    group.add_argument(
        "--root_path", default="", metavar="/PATH", help="its path behind a proxy"
    )
    group.add_argument(
        "--trust_proxy",
        default="",
        metavar="ADDRESSES",
        help="proxies whose X-Forwarded headers are believed, with commas between",
    )


def _add_limits(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("limits")
    group.add_argument(
        "--max_mib",
        type=float,
        default=settings.MAX_BYTES / 2**20,
        help="of a video (%(default)g)",
    )
    group.add_argument(
        "--keep_minutes",
        type=float,
        default=settings.KEEP_SECONDS / 60,
        help="after a job has ended, until all of it is deleted (60)",
    )
    group.add_argument(
        "--queue",
        type=int,
        default=settings.MOST_WAITING,
        help="videos that may wait (%(default)s)",
    )
    group.add_argument(
        "--uploads", type=int, default=16, help="videos that may come in at a time (16)"
    )
    group.add_argument(
        "--uploads_per_minute",
        type=float,
        default=settings.UPLOADS_PER_MINUTE,
        help="of a client (%(default)g); 0 for no limit",
    )
    group.add_argument(
        "--requests_per_minute",
        type=float,
        default=settings.REQUESTS_PER_MINUTE,
        help="of a client (%(default)g); 0 for no limit",
    )
    group.add_argument(
        "--stall_seconds",
        type=float,
        default=20.0,
        help="that may pass without a byte of a request (20)",
    )
    group.add_argument(
        "--grace_seconds",
        type=float,
        default=30.0,
        help="at the end, for videos under way (30); the rest waits for the next start",
    )


def _add_scoring(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("scoring")
    group.add_argument(
        "--data",
        default="~/.local/share/fakedetect_jax/service",
        metavar="DIR",
        help="uploads, jobs and results",
    )
    group.add_argument(
        "--store",
        default=os.environ.get(STORE, ""),
        metavar="URL",
        help="of the jobs: postgresql://…, redis://… or sqlite:///…; a file in --data "
        f"if not set; else {STORE} may",
    )
    group.add_argument(
        "--role",
        choices=("both", "web", "worker"),
        default="both",
        help="answer and score (both), or one of them, with the same --data and "
        "--store as the other; several workers may score",
    )
    group.add_argument("--batch_size", type=int, default=0, help="in clips")
    group.add_argument("--processes", type=int, default=0, help="that decode")
    group.add_argument(
        "--backend",
        choices=("auto", "jax", "onnxruntime", "openvino", "openvino-bfloat16"),
        default="jax",
        help="what computes on a CPU (jax)",
    )
    group.add_argument(
        "--time_limit",
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="for a video (600)",
    )
    group.add_argument(
        "--memory_limit", type=float, default=4.0, metavar="GIB", help="for a video (4)"
    )
    group.add_argument(
        "--compilation_cache", default="~/.cache/fakedetect_jax", metavar="DIR"
    )


def main(
    argv: Sequence[str] | None = None, *, prog: str = "python -m fakedetect_jax.serve"
) -> int:
    """Runs the command; returns its exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    previous = signal.signal(signal.SIGTERM, _end_on_signal)
    try:
        return command.run(
            lambda: parse_arguments(words, prog), lambda found: _run(found, words)
        )
    finally:
        signal.signal(signal.SIGTERM, previous)


def _end_on_signal(*_: object) -> None:
    raise Interrupted(signal.SIGTERM)


def _run(arguments: argparse.Namespace, words: list[str]) -> int:
    _check(arguments)
    options = _options(arguments)
    if arguments.role == "worker":
        from fakedetect_jax.service.scoring import run_worker

        return run_worker(options, parent=arguments.child)
    from fakedetect_jax.service.server import serve

    for line in _cautions(options.serving):
        print(f"warning: {line}", file=sys.stderr)
    if arguments.role == "web":
        return serve(options, None)
    module = [sys.executable, "-m", "fakedetect_jax.serve", *words]
    model = [] if arguments.workdir or arguments.model else [f"--workdir={DEMO}"]
    return serve(options, [*module, *model, "--role=worker", f"--child={os.getpid()}"])


def _check(arguments: argparse.Namespace) -> None:
    """Raises ConfigError, in one sentence, for what cannot be meant."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if absent:
        raise ConfigError(
            f"serving needs {', '.join(absent)}: pip install 'fakedetect-jax[serve]'"
        )
    system.need_posix("serving")
    for name in ("workdir", "model"):
        system.refuse_path(f"--{name}", getattr(arguments, name), bucket=True)
    system.refuse_path("--data", arguments.data)
    at_least = {"max_mib": 0.001, "queue": 1, "uploads": 1, "keep_minutes": 0.01}
    at_least |= {"time_limit": 1, "memory_limit": 0.1, "grace_seconds": 0, "port": 0}
    at_least |= {"stall_seconds": 0.1}
    at_least |= {"uploads_per_minute": 0, "requests_per_minute": 0}
    for name, least in at_least.items():
        if not least <= getattr(arguments, name) < 1e9:
            flag = f"--{name.replace('_', '-')}"
            raise ConfigError(f"{flag} must be at least {least:g}")
    if arguments.port > 65535:
        raise ConfigError("--port must be at most 65535")
    root = arguments.root_path
    if root and (not root.startswith("/") or root.endswith("/")):
        raise ConfigError(f"--root_path {root} must begin with / and not end with it")


def _model(arguments: argparse.Namespace) -> Path:
    """The folder of the model; the demo's where none is given and it is there."""
    given = arguments.workdir or arguments.model
    if given or arguments.role == "web":
        model = Path(given or ".").expanduser()
        if not model.exists() and "://" not in str(given):
            raise CheckpointError(f"{model} is not there; give a workdir or an export")
        return model
    if not (DEMO / "checkpoints").is_dir():
        raise ConfigError(
            "no model was given: give --workdir or --model, or train the demo's with "
            "`fakedetect demo` (5 minutes on two cores), which is then taken from "
            f"{DEMO}"
        )
    print(f"no model was given: taking the demo's, in {DEMO}")
    return DEMO


def _token(arguments: argparse.Namespace) -> str:
    """The bearer token, or nothing."""
    if arguments.token_file is None:
        return os.environ.get(TOKEN, "").strip()
    try:
        token = Path(arguments.token_file).expanduser().read_text().strip()
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or "no text"
        raise ConfigError(f"--token_file cannot be read ({said})") from error
    if not token:
        raise ConfigError("--token_file is empty; put a long random word into it")
    return token


def _options(arguments: argparse.Namespace) -> Options:
    cache = arguments.compilation_cache
    scoring = Scoring(
        model=_model(arguments),
        step=arguments.step,
        batch_size=arguments.batch_size,
        processes=arguments.processes or system.num_cores(),
        backend=arguments.backend,
        time_limit=arguments.time_limit,
        memory_limit=int(arguments.memory_limit * 2**30),
        cache=Path(cache).expanduser() if cache else None,
    )
    names = {name.lower() for name in arguments.name}
    if arguments.host in (*LOOPBACK, "0.0.0.0", "::"):  # noqa: S104 - a comparison
        names |= set(LOOPBACK)
    names.add(arguments.host.lower())
    serving = Serving(
        host=arguments.host,
        port=arguments.port,
        hosts=frozenset() if "*" in names else frozenset(names),
        root=arguments.root_path,
        trusted=arguments.trust_proxy,
        token=_token(arguments),
        max_bytes=int(arguments.max_mib * 2**20),
        most_waiting=arguments.queue,
        most_uploads=arguments.uploads,
        uploads_per_minute=arguments.uploads_per_minute,
        requests_per_minute=arguments.requests_per_minute,
        keep_seconds=60 * arguments.keep_minutes,
        stall_seconds=arguments.stall_seconds,
        grace_seconds=arguments.grace_seconds,
    )
    data = Path(arguments.data).expanduser()
    return Options(data, arguments.store, scoring, serving)


def _cautions(serving: Serving) -> list[str]:
    """What an owner should know before others can reach the service."""
    if serving.host in LOOPBACK:
        return []
    said = []
    if not serving.token:
        said.append(
            "other machines can reach this service and no token is asked for; give "
            "--token_file"
        )
    if not serving.trusted:
        said.append("what is sent is not encrypted; put a proxy with TLS before it")
    return said


if __name__ == "__main__":
    sys.exit(main())
