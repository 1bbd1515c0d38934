"""The command line: flags to a training or an evaluation; no logic of its own."""

import contextlib
import json
import os
import resource
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import app, flags
from ml_collections import config_flags

from fakedetect_jax import settings, supervise
from fakedetect_jax.errors import ConfigError, PeerError, UserError, WorkerError
from tfds_ffpp.errors import DataError

if TYPE_CHECKING:
    from fakedetect_jax import workdir

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Declares the flags of this command."""
    config_flags.DEFINE_config_file("config", None, "Config file, see configs/.")
    flags.DEFINE_string("workdir", None, "Folder of the run; runs/<config> if not set.")
    flags.DEFINE_enum("mode", "train", ["train", "eval"], "Train, or evaluate.")
    flags.DEFINE_string("split", "val", "Split to evaluate (--mode eval).")
    flags.DEFINE_integer("step", None, "Checkpoint to evaluate; the best if not set.")
    flags.DEFINE_bool("distributed", False, "Join hosts, detected from the cluster.")
    flags.DEFINE_string("coordinator", None, "host:port of process 0.")
    flags.DEFINE_integer("num_processes", None, "How many processes the run has.")
    flags.DEFINE_integer("process_id", None, "Which of them this one is, from 0.")
    flags.DEFINE_bool("tune_malloc", True, "On CPU: keep freed memory (starts anew).")
    flags.DEFINE_bool("debug", False, "Show tracebacks.")


def parse_flags(argv: list[str]) -> None:
    """Parses the command line; raises ConfigError in one sentence."""
    try:
        if not any(argument.lstrip("-").startswith("help") for argument in argv[1:]):
            # Before config_flags, whose errors name neither lines nor known fields.
            settings.check_overrides(settings.load(_config_source(argv)), argv[1:])
        rest = FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(settings.told(error)) from error
    except SystemExit as told:  # absl's --help ends with 1, as if it were a fault
        raise SystemExit(0) from told
    if rest[1:]:
        raise ConfigError(f"argument {rest[1]!r} is not known; see --help")


def _config_source(argv: list[str]) -> str:
    """The value of --config. Raises ConfigError when there is none."""
    for number, argument in enumerate(argv):
        if argument in ("--config", "-config") and number + 1 < len(argv):
            return argv[number + 1]
        if argument.startswith(("--config=", "-config=")):
            return argument.partition("=")[2]
    raise ConfigError("--config is missing; for example --config configs/demo.py")


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    try:
        parse_flags(argv)
        settings.check(FLAGS.config)
        _tune_malloc(argv)
        if FLAGS.distributed or FLAGS.coordinator:
            return supervise.in_child(
                lambda: _told(lambda: _run(argv)), ended=PEER_IS_GONE
            )
    except (UserError, DataError) as error:
        return _tell(error)
    return _told(lambda: _run(argv))


PEER_IS_GONE = (
    "another process of the run is gone and JAX ended this one; start the same command "
    "on all hosts again: it goes on from the last checkpoint"
)


def _told(work: Callable[[], int]) -> int:
    """The exit code of `work`; a fault that a user can mend is told in one sentence."""
    try:
        return work()
    except (UserError, DataError) as error:
        return _tell(error)


def _tell(error: UserError | DataError) -> int:
    if FLAGS.is_parsed() and FLAGS.debug:
        raise error
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


def _tune_malloc(argv: list[str]) -> None:
    """Starts this program anew with malloc told to keep what is freed.

    glibc hands large arrays back to the system at each step and faults them in again
    at the next; see docs/performance.md. The settings are read at start only.
    """
    if not FLAGS.tune_malloc or not sys.platform.startswith("linux"):
        return
    if any(name in os.environ for name in settings.MALLOC):
        return
    os.environ.update(settings.MALLOC)
    module = ["-m", "fakedetect_jax.main"]
    os.execv(sys.executable, [sys.executable, *module, *argv[1:]])  # noqa: S606


def _workdir() -> Path:
    if FLAGS.workdir:
        return Path(FLAGS.workdir).expanduser().absolute()
    file = config_flags.get_config_filename(FLAGS["config"])
    return Path("runs", Path(file.split(":")[0]).stem).absolute()


def _run(argv: list[str]) -> int:
    started = time.perf_counter()
    # Only now: --help and a wrong flag are answered without waiting for JAX.
    import jax
    from absl import logging

    from fakedetect_jax import parallel, report, train, workdir
    from fakedetect_jax.interrupt import Interrupted, StopRequest
    from fakedetect_jax.writer import Terminal

    # The libraries' notes on each save are not for our users; ours say what matters.
    logging.set_verbosity(logging.ERROR if FLAGS.debug else logging.FATAL)
    config, folder, notes = FLAGS.config, _workdir(), ""
    if FLAGS.mode == "eval":
        config, notes = workdir.as_trained(config, workdir.read_record(folder))
    settings.check(config)
    train.check_rooms(config)
    if FLAGS.mode == "train" and not workdir.has_checkpoint(folder):
        train.check_weights(config)  # a run that goes on has its weights
    workdir.ensure_writable(folder)
    if config.compilation_cache:
        cache = str(Path(config.compilation_cache).expanduser())
        jax.config.update("jax_compilation_cache_dir", cache)
    parallel.join_hosts(
        distributed=FLAGS.distributed,
        coordinator=FLAGS.coordinator,
        num_processes=FLAGS.num_processes,
        process_id=FLAGS.process_id,
    )
    parallel.require_accelerator(config.accelerator)
    first = jax.process_index() == 0
    terminal = Terminal(quiet=not first)
    if notes:
        terminal.warn(f"the run's own config is used: {notes}")
    command = shlex.join(["python", "-m", "fakedetect_jax.main", *argv[1:]])
    held = workdir.lock(folder) if first else contextlib.nullcontext()
    with held, StopRequest() as stop:
        mesh = parallel.make_mesh()
        parallel.check_divisible("batch_size", config.batch_size, mesh)
        parallel.check_divisible("eval.batch_size", config.eval.batch_size, mesh)
        run = workdir.Run(config, folder, mesh, terminal, stop, command)
        try:
            result = _work(run)
        except Interrupted as interrupted:
            return interrupted.exit_code
        except WorkerError:
            terminal.say(f"go on with: {command}")
            raise
        except (jax.errors.JaxRuntimeError, MemoryError, OSError) as error:
            fault = parallel.told_fault(error, config)
            if isinstance(fault, PeerError):
                # Nothing of JAX can be closed without the others.
                code = 128 + stop.signal if stop.signal else _tell(fault)
                sys.stderr.flush()
                os._exit(code)
            raise (fault or error) from error
    if result:
        terminal.say(report.seed_result_lines(result))
        terminal.say(f"report: {result['folder']}/report.html")
    phases = {k: round(v, 1) for k, v in terminal.phases.items()}
    terminal.say(f"seconds: {json.dumps(phases)}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # KiB to GiB
    seconds = time.perf_counter() - started
    terminal.say(f"total: {seconds:.0f} s, peak host memory {peak:.1f} GiB")
    return 0


def _work(run: "workdir.Run") -> dict[str, Any]:
    from fakedetect_jax import data, evaluate, parallel, train

    final = run.config.eval.final_split
    splits = ("train", "val", *([final] if final else ()))
    if FLAGS.mode == "eval":
        splits = ()
    parallel.first_alone(lambda: data.prepare(run.config, run.terminal, splits=splits))
    if FLAGS.mode == "eval":
        return evaluate.evaluate(run, FLAGS.split, step=FLAGS.step)
    return train.train(run)


def run() -> None:
    """Entry point."""
    define_flags()
    app.define_help_flags()
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()
