"""The command line: flags to a training or an evaluation; no logic of its own."""

import contextlib
import json
import os
import shlex
import sys
import time
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from fakedetect_jax import settings
from fakedetect_jax.errors import ConfigError, UserError
from tfds_ffpp.errors import DataError

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
        rest = FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(settings.one_line(error)) from error
    except (OSError, SyntaxError, ImportError, NameError) as error:
        raise ConfigError(
            f"the config file cannot be used: {settings.one_line(error)}"
        ) from error
    if rest[1:]:
        raise ConfigError(f"argument {rest[1]} is not known; see --help")
    if FLAGS.config is None:
        raise ConfigError("--config is missing; for example --config configs/demo.py")


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    try:
        parse_flags(argv)
        settings.check(FLAGS.config)
        _tune_malloc(argv)
        return _run(argv)
    except (UserError, DataError) as error:
        if FLAGS.is_parsed() and FLAGS.debug:
            raise
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

    from fakedetect_jax import data, evaluate, parallel, report, train, workdir
    from fakedetect_jax.interrupt import Interrupted, StopRequest
    from fakedetect_jax.writer import Terminal

    # The libraries' notes on each save are not for our users; ours say what matters.
    logging.set_verbosity(logging.ERROR)
    config, folder = FLAGS.config, _workdir()
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
    first = jax.process_index() == 0
    terminal = Terminal(quiet=not first)
    command = shlex.join(["python", "-m", "fakedetect_jax.main", *argv[1:]])
    held = workdir.lock(folder) if first else contextlib.nullcontext()
    with held, StopRequest() as stop:
        try:
            parallel.require_accelerator(config.accelerator)
            mesh = parallel.make_mesh()
            parallel.check_divisible("batch_size", config.batch_size, mesh)
            parallel.check_divisible("eval.batch_size", config.eval.batch_size, mesh)
            run = workdir.Run(config, folder, mesh, terminal, stop, command)
            if first:
                data.prepare(config, terminal)
            parallel.barrier("dataset ready")
            if FLAGS.mode == "eval":
                result = evaluate.evaluate(run, FLAGS.split, step=FLAGS.step)
            else:
                if first:
                    workdir.write_record(run, evaluate.describe_devices(mesh))
                result = train.train(run)
        except Interrupted as interrupted:
            return interrupted.exit_code
    if result:
        terminal.say(report.seed_result_lines(result))
        terminal.say(f"report: {result['folder']}/report.html")
    phases = {k: round(v, 1) for k, v in terminal.phases.items()}
    terminal.say(f"seconds: {json.dumps(phases)}")
    terminal.say(f"total: {time.perf_counter() - started:.0f} s")
    return 0


def run() -> None:
    """Entry point."""
    define_flags()
    app.define_help_flags()
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()
