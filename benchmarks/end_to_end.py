"""From raw videos to a detector: this project beside the field's practice.

python -m benchmarks.end_to_end [--rounds 3] [--out runs/end_to_end]   (extra bench)
python -m benchmarks.end_to_end --quick                                (a try)

The same made tree, the same split, network, optimiser and number of steps on both
sides, in turn, each from nothing: no crops, no dataset, no compiled program. Both
mirror half of the clips, which is all the augmentation that configs/demo.py has. The
peer is benchmarks/end_to_end_peer.py, computed eagerly or by torch.compile, whichever
a measurement beforehand finds faster over the whole training.

The time that counts is that until a detector is there: the end of the first validation
after which the checkpoint that is best on val has a TEST video AUC of BAR. That of each
checkpoint is computed when a side has ended, outside its time, so that watching test
costs neither side anything. Both keep all checkpoints for it, and of two that val finds
alike both take the newer.

Memory is what all processes of a side hold together, the most in each phase
(benchmarks/phases.py). What it grows by is the difference to a smaller tree, of a
quarter of the people, on which both sides run once more: a peak differs by some tens of
MB from run to run, so that is rough. Disk is what a side leaves.

OUT keeps each round as JSON when it ends, so an interrupted benchmark goes on with the
next one. Rounds of another commit or machine are refused; a new OUT measures anew.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from benchmarks import phases, table
from fakedetect_jax import settings
from fakedetect_jax.augment.fields import OPERATIONS
from fakedetect_jax.run.process import ending_with_this
from tfds_ffpp import records
from tfds_ffpp.store.files import write_json
from tfds_ffpp.synthetic import tree

BAR = 0.93  # of configs/demo.py
GOAL = 5  # times faster, in each phase
OWN, PEER = "this project", "field's practice"
OWN_SIDE, PEER_SIDE = "benchmarks.end_to_end_own", "benchmarks.end_to_end_peer"
PEER_PACKAGES = ("torch", "opencv-python-headless", "dlib-bin", "scikit-learn")
CROPS, START = "videos to crops", "start, compile"
PHASES = (CROPS, START, "train", "validate", "test", "guard, report")
# Why a phase may miss the goal.
REASONS = {
    CROPS: "both decode the videos and look for faces by dlib",
    START: "XLA compiles each program before the first step; eager PyTorch none",
    "train": "both compute the same network, in float32 on the same cores",
    "validate": "both compute the same network; the first also compiles its program",
    "test": "this project also measures trivial statistics and keeps frames to show",
}


class Scale(NamedTuple):
    """How much is made and trained."""

    identities: int
    frames: int  # of the longest video
    epochs: int

    @property
    def smaller(self) -> "Scale":
        """With a quarter of the people; three pairs are the fewest that split."""
        return self._replace(identities=max(self.identities // 8 * 2, 6))


class Validated(NamedTuple):
    """When a validation ended, in seconds, and the video AUC on val and test."""

    at: float
    val: float
    test: float


class Side(NamedTuple):
    """One way from videos to a detector, once.

    seconds, memory: of each phase, bytes at most; processor: seconds; crops, others:
    bytes on disk.
    """

    seconds: dict[str, float]
    memory: dict[str, int]
    processor: float
    crops: int
    others: int
    validations: list[Validated]

    @property
    def total(self) -> float:
        """Seconds of all phases."""
        return sum(self.seconds.values())

    @property
    def peak(self) -> int:
        """The most memory of any phase."""
        return max(self.memory.values())

    @property
    def auc(self) -> float:
        """On test, of the checkpoint that val chose in the end."""
        return held(self.validations).test

    @property
    def detector(self) -> float | None:
        """Seconds to a test AUC of BAR; None where it was not reached."""
        for number, one in enumerate(self.validations, start=1):
            if held(self.validations[:number]).test >= BAR:
                return one.at
        return None


def held(validations: Sequence[Validated]) -> Validated:
    """The one that is best on val, the newest on a tie."""
    return max(validations, key=lambda one: (one.val, one.at))


class Way(NamedTuple):
    """What a way to compute costs: seconds of the first steps, then of each one."""

    first: float
    step: float


class Beforehand(NamedTuple):
    """What the ways to compute cost, and the one that takes the least."""

    ways: dict[str, Way]
    chosen: str


class Round(NamedTuple):
    """Both sides once, and what they ran on."""

    made_with: dict[str, str]
    load: float  # of the machine, before
    videos: int
    steps: int
    beforehand: Beforehand
    sides: dict[str, Side]


class Task(NamedTuple):
    """What a round measures: the videos, how many, where to work; how the peer
    computes, if an earlier round found it."""

    videos: Path
    scale: Scale
    place: Path
    beforehand: Beforehand | None


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def environment(place: Path) -> dict[str, str]:
    """So that a side ends with this process and finds nothing compiled before."""
    return {**ending_with_this(), "TORCHINDUCTOR_CACHE_DIR": str(place / "inductor")}


def judged(ends: Sequence[float], lines: Sequence[str]) -> list[Validated]:
    """Each validation's end with what a side's `judge` printed of it."""
    found = [json.loads(line) for line in lines if line.startswith("{")]
    pairs = zip(ends, found, strict=True)
    return [Validated(at, one["val"], one["test"]) for at, one in pairs]


def own_side(task: Task) -> Side:
    """The project's demo on made videos."""
    place = task.place / "own"
    workdir, environ = place / "run", environment(place)
    fields = {
        "data.manual_dir": task.videos,
        "data.data_dir": place / "tfds",
        "compilation_cache": place / "cache",
        "synthetic.num_identities": task.scale.identities,
        "synthetic.num_frames": task.scale.frames,
        "num_epochs": task.scale.epochs,
        "checkpoint.keep_latest": task.scale.epochs,
    }
    flags = [f"--config.{name}={value}" for name, value in fields.items()]
    words = [OWN_SIDE, "train", "--config=demo", f"--workdir={workdir}", *flags]
    done = phases.run(words, START, environ)
    crops, everything = size_of(place / "tfds"), size_of(place)
    said = phases.run([OWN_SIDE, "judge", str(workdir)], "judge", environ)
    return Side(
        seconds=done.seconds_by_phase(),
        memory=done.memory_by_phase(),
        processor=done.processor,
        crops=crops,
        others=everything - crops,
        validations=judged(done.ends_of("validate"), said.lines),
    )


def peer_side(task: Task, plan: "Plan") -> tuple[Side, Beforehand]:
    """The field's practice on the same videos, and how it computed."""
    place = task.place / "peer"
    crops, environ = place / "crops", environment(place)
    inputs = [str(task.place / "videos.json"), str(crops)]
    cut = phases.run([PEER_SIDE, "crops", *inputs], CROPS, environ)
    beforehand = task.beforehand or look_beforehand(task.place, inputs, plan.steps)
    words = [*inputs, str(place / "states")]
    flags = [f"--steps={plan.steps}", f"--every={plan.every}", f"--flip={mirrored()}"]
    flags += ["--compiled"] if beforehand.chosen == "compiled" else []
    done = phases.run([PEER_SIDE, "train", *words, *flags], START, environ)
    kept, everything = size_of(crops), size_of(place)
    said = phases.run([PEER_SIDE, "judge", *words], "judge", environ)
    ends = [cut.seconds + at for at in done.ends_of("validate")]
    side = Side(
        seconds=cut.seconds_by_phase() | done.seconds_by_phase(),
        memory=cut.memory_by_phase() | done.memory_by_phase(),
        processor=cut.processor + done.processor,
        crops=kept,
        others=everything - kept,
        validations=judged(ends, said.lines),
    )
    return side, beforehand


def look_beforehand(place: Path, inputs: Sequence[str], steps: int) -> Beforehand:
    """What takes the peer the least for so many steps; compiled anew, as then."""
    environ = environment(place / "beforehand")
    said = phases.run([PEER_SIDE, "rates", *inputs], "beforehand", environ)
    ways = records.from_json(dict[str, Way], json.loads(said.lines[-1]))
    costs = {name: way.first + steps * way.step for name, way in ways.items()}
    return Beforehand(ways, min(costs, key=lambda name: costs[name]))


def mirrored() -> float:
    """The share of clips that configs/demo.py mirrors; it must do nothing else."""
    augment = settings.load("demo").augment
    others = [name for name in OPERATIONS if name != "flip" and augment[name]]
    if others:
        raise SystemExit(
            f"error: configs/demo.py has augment.{others[0]}, which the peer lacks; "
            "add it to benchmarks/end_to_end_peer.py"
        )
    return augment.flip


class Plan(NamedTuple):
    """Steps of a training, and from one validation to the next."""

    steps: int
    every: int


def read_plan(workdir: Path) -> Plan:
    """What a run of the project did."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    validated = [row["step"] for row in rows if row["kind"] == "val"]
    return Plan(validated[-1], validated[0])


def list_videos(videos: Path, built: Path, out: Path) -> int:
    """Writes what the peer reads, of a built dataset's split; how many videos."""
    rows = []
    for split in ("train", "val", "test"):
        (file,) = built.rglob(f"videos-{split}.jsonl")
        for line in file.read_text().splitlines():
            video = json.loads(line)
            kind = "original" if video["label"] == 0 else "manipulated"
            method = "youtube" if video["label"] == 0 else video["method"]
            folder = videos / f"{kind}_sequences" / method / video["compression"]
            name = f"{method}_{video['video_id']}"
            path = folder / "videos" / f"{video['video_id']}.mp4"
            rows.append(
                {"path": str(path), "name": name, "split": split}
                | {"label": video["label"]}
            )
    out.write_text(json.dumps(rows))
    return len(rows)


def measure(task: Task, made_with: dict[str, str]) -> Round:
    """Both sides, each from nothing; what they wrote is removed again."""
    shutil.rmtree(task.place, ignore_errors=True)  # of a round that was interrupted
    task.place.mkdir(parents=True)
    load = os.getloadavg()[0]
    say(f"{OWN}:")
    own = own_side(task)
    built = task.place / "own" / "tfds"
    num_videos = list_videos(task.videos, built, task.place / "videos.json")
    plan = read_plan(task.place / "own" / "run")
    say(f"{PEER}:")
    peer, beforehand = peer_side(task, plan)
    shutil.rmtree(task.place)
    sides = {OWN: own, PEER: peer}
    return Round(made_with, load, num_videos, plan.steps, beforehand, sides)


def say(line: str) -> None:
    """A line of progress."""
    print(line, file=sys.stderr, flush=True)


def need_same(place: str, there: dict[str, str], now: dict[str, str]) -> None:
    """Ends the benchmark where a round was measured with something else."""
    for field, value in now.items():
        if there[field] != value:
            raise SystemExit(
                f"error: {place} was measured with {field} {there[field]!r}, and this "
                f"is {value!r}; choose another --out or remove it"
            )


def kept_or_measured(out: Path, name: str, scale: Scale, first: Round | None) -> Round:
    """A round: what OUT has of it, else measured and kept there.

    first: the first round of all, if this is another one.
    """
    made_with = {
        "commit": table.commit(),
        "machine": table.machine(),
        "versions": ", ".join([table.versions(), *peer_versions()]),
        "scale": ", ".join(f"{k} {v}" for k, v in scale._asdict().items()),
    }
    if first:  # files may have changed since it began
        scaled = {**first.made_with, "scale": made_with["scale"]}
        need_same("the first round", scaled, made_with)
    file = out / f"{name}.json"
    if file.exists():
        found = records.from_json(Round, json.loads(file.read_text()))
        need_same(str(file), found.made_with, made_with)
        say(f"{name}: measured before")
        return found
    say(f"{name}: {scale.identities} people, at most {scale.frames} frames a video")
    made = settings.load("demo")
    parameters = made.synthetic.to_dict() | {
        "num_identities": scale.identities,
        "num_frames": scale.frames,
    }
    videos = out / f"videos_{scale.identities}_{scale.frames}"
    levels = (made.dataset.compression,)
    tree.write_tree(
        videos, **parameters, methods=made.dataset.methods, compressions=levels
    )
    found = measure(
        Task(videos, scale, out / "work", first and first.beforehand), made_with
    )
    write_json(file, found)
    for side, what in found.sides.items():
        reached = "not reached" if what.detector is None else f"{what.detector:.0f} s"
        say(f"{name}, {side}: {what.total:.0f} s, to AUC {BAR} {reached}")
    return found


def peer_versions() -> list[str]:
    """Those of the packages that the peer is made of."""
    return [f"{name} {metadata.version(name)}" for name in PEER_PACKAGES]


# The tables -------------------------------------------------------------------------


def span(values: Sequence[float], form: str = ",.0f") -> str:
    """Median (min to max); a single value as it is; nothing of none."""
    if not values:
        return ""
    middle = f"{statistics.median(values):{form}}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):{form}} to {max(values):{form}})"


Number = Callable[[Side], float | None]


def known(rounds: Sequence[Round], name: str, of: Number) -> list[float]:
    """A number of one side in each round that has it."""
    found = (of(one.sides[name]) for one in rounds)
    return [value for value in found if value is not None]


def ratios(rounds: Sequence[Round], of: Number) -> list[float]:
    """How many times larger a number is for the peer, in each round that has both."""
    pairs = ((of(one.sides[OWN]), of(one.sides[PEER])) for one in rounds)
    return [peer / own for own, peer in pairs if own and peer is not None]


def times(value: float | None, factor: float) -> float | None:
    """A number in another unit, where there is one."""
    return None if value is None else value * factor


def tell_phases(results: table.Results, rounds: Sequence[Round]) -> None:
    """Seconds and memory by phase; why phases miss the goal."""
    units = [f"{name}, {unit}" for unit in ("s", "MB") for name in (OWN, PEER)]
    results.heads("phase", *units, "times faster")
    slow = []
    for name in PHASES:

        def seconds(side: Side, name: str = name) -> float | None:
            return side.seconds.get(name)

        def memory(side: Side, name: str = name) -> float | None:
            return times(side.memory.get(name), 1e-6)

        faster = ratios(rounds, seconds)
        cells = [span(known(rounds, n, seconds), ",.1f") for n in (OWN, PEER)]
        cells += [span(known(rounds, n, memory)) for n in (OWN, PEER)]
        results.row(name, *cells, span(faster, ".1f"))
        if faster and statistics.median(faster) < GOAL:
            slow.append(name)
    results.say()
    for name in slow:
        results.say(f"- Less than {GOAL} times faster, {name}: {REASONS[name]}.")


def tell_whole(results: table.Results, rounds: Sequence[Round], smaller: Round) -> None:
    """Time to a detector, AUC, memory, and both for 1,000 videos."""
    results.heads("", OWN, PEER, "times as much")

    def row(name: str, of: Number, form: str = ",.0f") -> None:
        cells = []
        for side in (OWN, PEER):
            found = known(rounds, side, of)
            few = len(found) < len(rounds)
            share = f", in {len(found)} of {len(rounds)}" if few else ""
            cells.append(f"{span(found, form)}{share}" if found else "not reached")
        results.row(name, *cells, span(ratios(rounds, of), ".2f"))

    thousands = rounds[0].videos / 1000
    row(f"to a test AUC of {BAR}, min", lambda x: times(x.detector, 1 / 60), ".1f")
    row("all phases, min", lambda x: x.total / 60, ".1f")
    row("of processors, min", lambda x: x.processor / 60, ".1f")
    row("video AUC on test in the end", lambda x: x.auc, ".3f")
    row("peak memory, MB", lambda x: x.peak / 1e6)
    row("disk, crops of 1,000 videos, MB", lambda x: x.crops / 1e6 / thousands)
    row("disk, checkpoints and all else, MB", lambda x: x.others / 1e6)
    more = thousands - smaller.videos / 1000
    cells = []
    for name in (OWN, PEER):
        before = smaller.sides[name].peak
        grown = known(rounds, name, lambda x: (x.peak - before) / 1e6 / more)  # noqa: B023
        cells.append(span(grown))
    results.row("memory, 1,000 more videos, MB", *cells, "")


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--identities", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path("runs/end_to_end"))
    parser.add_argument("--quick", action="store_true", help="one round, a small tree")
    table.add_option(parser)
    options = parser.parse_args()
    demo = settings.load("demo")
    scale = Scale(options.identities, demo.synthetic.num_frames, demo.num_epochs)
    out = options.out.absolute()
    if options.quick:
        scale, options.rounds, out = Scale(8, 12, 2), 1, out / "quick"
    if scale.smaller.identities >= scale.identities:
        parser.error("--identities must be 8 or more: a smaller tree has 6")
    with table.results(parser, options) as results:
        rounds: list[Round] = []
        for number in range(options.rounds):
            name, before = f"round_{number + 1}", rounds[0] if rounds else None
            rounds.append(kept_or_measured(out, name, scale, before))
        first = rounds[0]
        ways, chosen = first.beforehand
        smaller = kept_or_measured(out, "smaller", scale.smaller, first)
        costs = (
            f"{name} {1000 * way.step:.0f} ms a step after {way.first:.0f} s"
            for name, way in sorted(ways.items())
        )
        loads = span([one.load for one in rounds], ".1f")
        results.say(f"- Of the peer: {', '.join(peer_versions())}")
        results.say(f"- The peer, beforehand: {', '.join(costs)}; chosen: {chosen}")
        results.say(
            f"- {first.videos} videos, {first.steps} steps of 12 clips of 6 frames at "
            f"64 px; rounds: {len(rounds)}, median (min to max); load before each: "
            f"{loads}; memory's growth is from {smaller.videos} videos"
        )
        tell_phases(results, rounds)
        tell_whole(results, rounds, smaller)


if __name__ == "__main__":
    main()
