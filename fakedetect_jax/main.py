"""The command line: flags to a training or an evaluation; no logic of its own."""

import contextlib
import json
import os
import re
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from absl import app, flags
from ml_collections import config_flags

from fakedetect_jax import settings
from fakedetect_jax.errors import ConfigError, PeerError, WorkerError
from fakedetect_jax.run import hosts, process
from tfds_ffpp import system
from tfds_ffpp.errors import Interrupted, UserError
from tfds_ffpp.store import addresses
from tfds_ffpp.terminal import command

if TYPE_CHECKING:
    from fakedetect_jax.reports.report import Report
    from fakedetect_jax.run import workdir

FLAGS = flags.FLAGS


def define_flags() -> None:
    """Declares the flags of this command."""
    config_flags.DEFINE_config_file(
        "config",
        None,
        f"Config file, or {', '.join(settings.shipped())}; in eval the run's own.",
    )
    FLAGS["config"].parser = _ConfigFile()
    flags.DEFINE_string("workdir", None, "Folder of the run; runs/<config> if not set.")
    flags.DEFINE_enum(
        "mode",
        "train",
        ["train", "eval", "robustness"],
        "Train, evaluate, or evaluate on worse and worse videos too.",
    )
    flags.DEFINE_string("split", "val", "Split to evaluate (not in --mode train).")
    flags.DEFINE_enum(
        "backend",
        "jax",
        ["auto", "jax", "onnxruntime", "openvino", "openvino-bfloat16"],
        "What computes on a CPU (--mode eval); auto measures for a second, once.",
    )
    flags.DEFINE_integer("step", None, "Checkpoint to evaluate; the best if not set.")
    flags.DEFINE_bool(
        "dry_run",
        False,
        "Check config, data, disk, memory; compile; say the plan; train nothing.",
    )
    flags.DEFINE_string(
        "profile_steps",
        None,
        "first:last, for example 20:24: trace them into the workdir's profile/.",
    )
    _define_host_flags(FLAGS)
    flags.DEFINE_bool("tune_malloc", True, "On CPU: keep freed memory (starts anew).")
    flags.DEFINE_bool("debug", False, "Show tracebacks.")


class _ConfigFile(flags.ArgumentParser):
    """Runs a config file; its errors name a line, or the field that was meant.

    Those of config_flags name neither.
    """

    def parse(self, argument: str) -> settings.Config:
        """The config that settings.load reads. Raises ConfigError."""
        config = settings.load(argument)
        settings.check_overrides(config, sys.argv[1:])
        return config


def _define_host_flags(values: flags.FlagValues) -> None:
    distributed = "Join hosts, detected from the cluster."
    count = "How many processes the run has."
    number = "Which of them this one is, from 0."
    devices = "This process's devices, for example 0,1; all if not set."
    flags.DEFINE_bool("distributed", False, distributed, flag_values=values)
    flags.DEFINE_string(
        "coordinator", None, "host:port of process 0.", flag_values=values
    )
    flags.DEFINE_integer("num_processes", None, count, flag_values=values)
    flags.DEFINE_integer("process_id", None, number, flag_values=values)
    flags.DEFINE_list("local_device_ids", None, devices, flag_values=values)


def host_flags(argv: list[str]) -> flags.FlagValues:
    """The flags that join hosts, from a command line whose others may be wrong.

    Raises ConfigError.
    """
    values = flags.FlagValues()
    _define_host_flags(values)
    try:
        values(argv, known_only=True)
    except flags.Error as error:
        raise ConfigError(settings.as_sentence(error)) from error
    return values


def parse_flags(argv: list[str]) -> None:
    """Parses the command line; raises ConfigError in one sentence."""
    try:
        if not any(argument.lstrip("-").startswith("help") for argument in argv[1:]):
            _need_config(argv)
        rest = FLAGS(argv)
    except (flags.Error, AttributeError, KeyError, ValueError, TypeError) as error:
        raise ConfigError(settings.as_sentence(error)) from error
    except SystemExit as end:  # absl's --help ends with 1, as if it were a fault
        raise SystemExit(0) from end
    if rest[1:]:
        raise ConfigError(f"argument {rest[1]!r} is not known; see --help")


def _profiled(text: str | None) -> range | None:
    """The steps that --profile_steps=first:last names. Raises ConfigError."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(
            f"--profile_steps is {text!r}; it must be first:last, for example 20:24"
        )
    return range(int(match[1]), int(match[2]) + 1)


def _need_config(argv: list[str]) -> None:
    """Raises ConfigError where there is no config, or no such field.

    Without --config, that of the run which --mode eval names takes its place.
    """
    early = flags.FlagValues()
    for name in ("config", "workdir", "mode"):
        flags.DEFINE_string(name, None, "", flag_values=early)
    early(argv, known_only=True)
    if early.config is not None:
        return
    if early.mode in (None, "train"):
        raise ConfigError("--config is missing; for example --config demo")
    if not early.workdir:
        mode = early.mode
        raise ConfigError(f"--workdir is missing: say which run --mode {mode} is for")

    from fakedetect_jax.run import workdir

    system.refuse_path("--workdir", early.workdir, bucket=True)
    folder = addresses.absolute(addresses.as_path(early.workdir))
    with addresses.one_sentence():
        config = workdir.whole_config(folder)
    settings.check_overrides(config, argv[1:])
    del FLAGS.config  # of a file
    config_flags.DEFINE_config_dict("config", config, sys_argv=argv)


class _Asked(NamedTuple):
    """A command line, and the fault found in it before any work, if there is one.

    where: the flags that join hosts; None where they are at fault.
    """

    argv: list[str]
    where: flags.FlagValues | None
    problem: UserError | None
    debug: bool


def main(argv: list[str]) -> int:
    """Runs the command; returns its exit code."""
    process.end_with_parent()
    return command.run(lambda: _read(argv), _start)


def _read(argv: list[str]) -> _Asked:
    problem, where = None, None
    try:
        where = host_flags(argv)
        parse_flags(argv)
        if FLAGS.mode == "train" or where.distributed or where.coordinator:
            system.need_posix("training")
        if FLAGS.mode != "train" and (FLAGS.dry_run or FLAGS.profile_steps):
            raise ConfigError("--dry_run and --profile_steps are for --mode train")
        if FLAGS.backend != "jax" and (
            FLAGS.mode != "eval" or where.distributed or where.coordinator
        ):
            raise ConfigError("--backend is for --mode eval on one host")
        _profiled(FLAGS.profile_steps)
        if FLAGS.profile_steps and addresses.is_address(FLAGS.workdir or ""):
            raise ConfigError(
                f"--profile_steps writes its trace into a folder, and --workdir is "
                f"{FLAGS.workdir}; trace with a --workdir on this machine"
            )
        settings.check(FLAGS.config)
        settings.check_paths(FLAGS.config, FLAGS.workdir)
        if FLAGS.tune_malloc and process.will_run_on_cpu(FLAGS.config.accelerator):
            process.restart_with_malloc()
    except UserError as error:
        problem = error
    return _Asked(argv, where, problem, debug=FLAGS.is_parsed() and FLAGS.debug)


def _start(asked: _Asked) -> int:
    argv, where, problem, _ = asked
    if where is not None and (where.distributed or where.coordinator):
        # The others are to hear of the fault, too.
        return process.in_child(
            lambda: _one_of_several(argv, where, problem), ended=PEER_IS_GONE
        )
    if problem is not None:
        raise problem
    with addresses.one_sentence():
        ready = _prepare(argv)
    return _run(argv, ready, hosts.Hosts())


PEER_IS_GONE = (
    "another process of the run is gone and JAX ended this one; start the same command "
    "on all hosts again: it goes on from the last checkpoint"
)


def _one_of_several(
    argv: list[str], where: flags.FlagValues, problem: UserError | None
) -> int:
    """The work of one process of several, whose failure ends all of them."""
    place = link = None
    try:
        place = hosts.find_place(
            distributed=where.distributed,
            coordinator=where.coordinator,
            num_processes=where.num_processes,
            process_id=where.process_id,
        )
        hosts.check_place(place)
        if problem is not None:
            raise problem
        # Before the slow imports, so that no host waits for another's.
        from fakedetect_jax.run.workdir import shared_facts
        from tfds_ffpp.terminal.lines import Terminal

        options = {f"--{name}": FLAGS[name].value for name in ("mode", "split", "step")}
        with addresses.one_sentence():
            facts = {**options, **shared_facts(FLAGS.config, _workdir())}
        cure = "give all hosts the same command, config, packages and code"
        link = hosts.join(place, facts, cure=cure, say=Terminal().say)
        with addresses.one_sentence():
            ready = _prepare(argv)

        from fakedetect_jax.run import parallel

        parallel.join_hosts(place, parallel.local_devices(where.local_device_ids))
        code = _run(argv, ready, link)
    except BaseException as error:
        return _end_all(error, place, link)
    link.done()
    return code


def _end_all(
    error: BaseException, place: hosts.Place | None, link: hosts.Hosts | None
) -> int:
    """Says what ended this process, here and to the others; its exit code.

    Without a return where JAX has begun, as it would wait for the others.
    """
    if link is not None:
        link.claim_end()
    if isinstance(error, UserError):
        sentence = str(error)
        code = command.complain(error, debug=bool(FLAGS["debug"].value))
    else:
        traceback.print_exception(error)
        sentence = f"it ended with {type(error).__name__}: {settings.one_line(error)}"
        code = getattr(error, "exit_code", 1)
    if link is not None:
        link.fail(sentence, code)
    if place is not None and not isinstance(error, PeerError):
        print("the other hosts hear of it as they come, for 60 s", file=sys.stderr)
        sys.stderr.flush()
        with contextlib.suppress(UserError, KeyboardInterrupt):
            hosts.send_failure(place, sentence, code)
    return code


def _workdir() -> Path:
    if FLAGS.workdir:
        return addresses.absolute(addresses.as_path(FLAGS.workdir))
    file = config_flags.get_config_filename(FLAGS["config"])
    return Path("runs", Path(file.split(":")[0]).stem).absolute()


class _Ready(NamedTuple):
    """What is known, and checked, before any device is touched."""

    config: settings.Config
    workdir: Path
    other: str  # in what the config given differs from the run's that is used
    flags: str  # what flags have otherwise than the run
    started: float


def _prepare(argv: list[str]) -> _Ready:
    started = time.perf_counter()
    # Only now: --help and a wrong flag are answered without waiting for JAX.
    from absl import logging

    from fakedetect_jax.run import fixed
    from fakedetect_jax.run.workdir import ensure_writable, has_checkpoint, read_config
    from fakedetect_jax.training.checks import check_groups, check_weights

    # The libraries' notes on each save are not for our users; ours say what matters.
    logging.set_verbosity(logging.ERROR if FLAGS.debug else logging.FATAL)
    config, folder, other, flags = FLAGS.config, _workdir(), "", ""
    if FLAGS.mode != "train":
        config, other, flags = fixed.as_trained(
            config, read_config(folder), flags=settings.overridden(argv)
        )
    settings.check(config)
    check_groups(config)
    if FLAGS.mode == "train" and not has_checkpoint(folder):
        check_weights(config)  # a run that goes on has its weights
    ensure_writable(folder, make=not FLAGS.dry_run)
    return _Ready(config, folder, other, flags, started)


def _run(argv: list[str], ready: _Ready, link: hosts.Hosts) -> int:
    import jax

    from fakedetect_jax.pages import formats
    from fakedetect_jax.run import parallel
    from fakedetect_jax.run.memory import user_error_of
    from fakedetect_jax.run.process import StopRequest
    from fakedetect_jax.run.workdir import Run, lock
    from tfds_ffpp.terminal.lines import Terminal

    config, folder = ready.config, ready.workdir
    if config.compilation_cache:
        parallel.keep_programs(str(Path(config.compilation_cache).expanduser()))
    if config.deterministic:
        parallel.ask_for_same_bits()
    parallel.require_accelerator(config.accelerator)
    first = jax.process_index() == 0
    terminal = Terminal(quiet=not first)
    if ready.other:
        terminal.warn(ready.other)
    if ready.flags:
        terminal.say(ready.flags)
    typed = shlex.join(["python", "-m", "fakedetect_jax.main", *argv[1:]])
    writes = not FLAGS.dry_run
    held = lock(folder, link) if first and writes else contextlib.nullcontext()
    with held, StopRequest() as stop:
        mesh = parallel.make_mesh()
        parts = config.accumulate
        parallel.check_divisible("batch_size", config.batch_size, mesh, parts)
        parallel.check_divisible("eval.batch_size", config.eval.batch_size, mesh)
        profile = _profiled(FLAGS.profile_steps)
        run = Run(config, folder, mesh, terminal, stop, typed, link, writes, profile)
        try:
            with addresses.one_sentence():
                evaluation = _work(run)
                if evaluation is not None:
                    report = _report(run, evaluation)
                    if report.trained_on.made:
                        terminal.warn(formats.MADE_WARNING)
                    terminal.say(formats.result_lines(report))
                    terminal.say(f"report: {evaluation}/report.html")
                    if FLAGS.mode == "robustness":
                        _degrade(run, evaluation)
        except Interrupted as interrupted:
            return interrupted.exit_code
        except WorkerError:
            terminal.say(f"go on with: {typed}")
            raise
        except (jax.errors.JaxRuntimeError, MemoryError, OSError) as error:
            fault = user_error_of(error, config)
            if isinstance(fault, PeerError):
                link.await_reason()
                if stop.signal:
                    # Nothing of JAX can be closed without the others.
                    os._exit(128 + stop.signal)
            raise (fault or error) from error
    phases = {k: round(v, 1) for k, v in terminal.phases.items()}
    terminal.say(f"seconds: {json.dumps(phases)}")
    peak = system.peak_bytes()
    memory = f", peak host memory {peak / 2**30:.1f} GiB" if peak else ""
    terminal.say(f"total: {time.perf_counter() - ready.started:.0f} s{memory}")
    return 0


def _work(run: "workdir.Run") -> Path | None:
    """The folder of the evaluation that ends the command, if one does."""
    from fakedetect_jax import train
    from fakedetect_jax.data import dataset
    from fakedetect_jax.evaluation import evaluate
    from fakedetect_jax.run import parallel
    from fakedetect_jax.training import dry_run

    final, other = run.config.eval.final_split, run.config.eval.dataset
    if FLAGS.dry_run:
        dry_run.dry_run(run)
        return None
    splits = ("train", "val", *([final] if final else ()))
    if FLAGS.mode != "train":
        splits = ()
    if FLAGS.mode == "train" or other in ("", run.config.dataset.name):
        parallel.first_alone(
            lambda: dataset.prepare(run.config, run.terminal, splits=splits), run.hosts
        )
    if FLAGS.mode != "train":
        backend = _backend(run)
        return evaluate.evaluate(run, FLAGS.split, step=FLAGS.step, backend=backend)
    return train.train(run)


def _backend(run: "workdir.Run") -> str:
    """The backend asked for, the fastest of all for auto."""
    if FLAGS.backend != "auto":
        return FLAGS.backend
    from fakedetect_jax.programs import backends
    from fakedetect_jax.trained.model import read_workdir

    cache = run.config.compilation_cache
    folder = Path(cache).expanduser() if cache else None
    model = read_workdir(run.workdir, step=FLAGS.step, cache=folder)
    chosen = backends.choose(model, None, folder)
    run.terminal.say(f"backend   {chosen}, the fastest here")
    return chosen


def _report(run: "workdir.Run", folder: Path) -> "Report":
    """Writes an evaluation's page, unless it is there; what report.json says."""
    import jax

    from fakedetect_jax.pages import evaluation_page
    from fakedetect_jax.reports.report import read_report
    from fakedetect_jax.run import parallel

    if jax.process_index() == 0 and not (folder / "report.json").exists():
        with run.terminal.phase("report"):
            metrics_file = run.workdir / "metrics.jsonl"
            evaluation_page.write_report(folder, metrics_file=metrics_file)
    run.hosts.meet("report written")  # a collective would not wait as long
    parallel.barrier("report written")
    return read_report(folder)


def _degrade(run: "workdir.Run", evaluation: Path) -> None:
    """Measures robustness and shows it."""
    from fakedetect_jax.evaluation import robustness
    from fakedetect_jax.pages import formats

    found = robustness.measure(run, evaluation, FLAGS.split)
    for line in formats.robustness_lines(found):
        run.terminal.say(line)
    run.terminal.say(f"robustness: {evaluation}/robustness/robustness.html")


def run(argv: Sequence[str] | None = None, *, prog: str = "") -> NoReturn:
    """Entry point; ends with main's exit code.

    argv, prog: what follows the program's name and that name, if they are not the
    process's own. The flags of a config file read sys.argv, so it has to be these.
    """
    if argv is not None:
        sys.argv[:] = [prog, *argv]
    define_flags()
    for flag in FLAGS.get_flags_for_module(__name__):  # what --help shows
        FLAGS.register_key_flag_for_module(sys.argv[0], flag)
    app.define_help_flags()
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()
