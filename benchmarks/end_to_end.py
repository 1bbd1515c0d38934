"""From raw videos to a detector: this project beside the field's practice.

python -m benchmarks.end_to_end [--rounds 3] [--identities 64]      (extra bench)

The same made tree, the same split, network, optimiser and number of steps on both
sides, in turn, each from nothing: no crops, no dataset, no compiled program. The peer
is benchmarks/end_to_end_peer.py, computed eagerly or by torch.compile, whichever a
measurement beforehand finds faster over the whole training. A detector is there at the
first validation with a video AUC of at least BAR. Memory is what all processes of a
side hold together (proportional set size), disk what a side leaves behind.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import table
from fakedetect_jax import settings
from tfds_ffpp.synthetic import tree

BAR = 0.93
PEER = "benchmarks.end_to_end_peer"


class Cost(NamedTuple):
    """What a command took: seconds, of processors, most memory held, its lines."""

    seconds: float
    processor: float
    memory: int
    lines: list[str]


class Side(NamedTuple):
    """One way from videos to a detector, once.

    phases: seconds; detector: seconds to BAR, None where it was not reached; auc: of
    the test's videos; disk: bytes.
    """

    phases: dict[str, float]
    detector: float | None
    auc: float
    processor: float
    memory: int
    disk: int

    @property
    def seconds(self) -> float:
        """All of it."""
        return sum(self.phases.values())


def held(pid: int) -> int:
    """Bytes that a process and those that it started hold together."""
    total, waiting = 0, [pid]
    while waiting:
        number = waiting.pop()
        try:
            rollup = Path(f"/proc/{number}/smaps_rollup").read_text()
            total += 1024 * int(rollup.split("Pss:")[1].split()[0])
            for task in Path(f"/proc/{number}/task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, IndexError, ProcessLookupError):
            continue  # ended meanwhile
    return total


def run(
    words: Sequence[str], watch: Callable[[str, float], None] = lambda line, at: None
) -> Cost:
    """Runs a command; `watch` gets its lines and when each came."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, most = time.perf_counter(), 0
    process = subprocess.Popen(
        [sys.executable, "-m", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )

    def poll() -> None:
        nonlocal most
        while process.poll() is None:
            most = max(most, held(process.pid))
            time.sleep(1)

    thread = threading.Thread(target=poll)
    thread.start()
    lines = []
    assert process.stdout
    for line in process.stdout:
        lines.append(line.rstrip())
        watch(lines[-1], time.perf_counter() - start)
    code = process.wait()
    seconds = time.perf_counter() - start
    thread.join()
    if code:
        said = "\n".join(lines[-20:])
        raise SystemExit(f"{said}\nerror: {' '.join(words)} ended with {code}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(seconds, used, most, lines)


def size_of(folder: Path) -> int:
    """Bytes of all files below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def own_side(videos: Path, place: Path, options: argparse.Namespace) -> Side:
    """The project's demo on made videos."""
    workdir, first = place / "run", []

    def watch(line: str, at: float) -> None:
        word, _, rest = line.strip().partition("validation video AUC ")
        if not word and rest and float(rest.split(",")[0]) >= BAR:
            first.append(at)

    cost = run(
        [
            *("fakedetect_jax.main", "--config=demo", f"--workdir={workdir}"),
            f"--config.data.manual_dir={videos}",
            f"--config.data.data_dir={place / 'tfds'}",
            f"--config.compilation_cache={place / 'cache'}",
            f"--config.synthetic.num_identities={options.identities}",
        ],
        watch,
    )
    (split,) = (workdir / "eval").glob("test@*")
    report = json.loads((split / "report.json").read_text())
    (said,) = [line for line in cost.lines if line.startswith("seconds: ")]
    phases = json.loads(said.removeprefix("seconds: "))
    named = {
        "videos to crops": phases["build"],
        "train": phases["train"],
        "start, compile": phases["compile"] + phases["initialise"],
        "validate, test": phases["validate"] + phases["evaluate"],
        "report, guard": phases["report"] + phases["guard"],
    }
    named["start, compile"] += cost.seconds - sum(phases.values())
    return Side(
        phases=named,
        detector=first[0] if first else None,
        auc=report["video"]["auc"],
        processor=cost.processor,
        memory=cost.memory,
        disk=size_of(place / "tfds"),
    )


def peer_side(rows: Path, place: Path, options: argparse.Namespace) -> Side:
    """The field's practice on the same videos."""
    crops = place / "crops"
    cut = run([PEER, "crops", str(rows), str(crops)])
    came: list[tuple[dict, float]] = []
    words = [PEER, "train", str(rows), str(crops), f"--steps={options.steps}"]
    words += ["--compiled"] if options.compiled else []

    def watch(line: str, at: float) -> None:
        if line.startswith("{"):
            came.append((json.loads(line), at))

    trained = run(words, watch)
    first = [at for said, at in came if said.get("val", 0) >= BAR]
    return Side(
        phases={
            "videos to crops": cut.seconds,
            "train, validate, test": trained.seconds,
        },
        detector=cut.seconds + first[0] if first else None,
        auc=came[-1][0]["test"],
        processor=cut.processor + trained.processor,
        memory=max(cut.memory, trained.memory),
        disk=size_of(crops),
    )


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


def span(values: Sequence[float], form: str = ",.0f") -> str:
    """Median (min to max)."""
    middle = statistics.median(values)
    return f"{middle:{form}} ({min(values):{form}} to {max(values):{form}})"


def tell(results: table.Results, sides: dict[str, list[Side]], num_videos: int) -> None:
    """The table."""
    results.heads("", *sides)
    names = list(dict.fromkeys(n for some in sides.values() for n in some[0].phases))
    for name in names:
        cells = [
            span([side.phases[name] for side in some]) if name in some[0].phases else ""
            for some in sides.values()
        ]
        results.row(f"{name}, s", *cells)
    results.row("all, s", *(span([s.seconds for s in x]) for x in sides.values()))
    reached = []
    for some in sides.values():
        times = [side.detector for side in some if side.detector is not None]
        share = f", in {len(times)} of {len(some)}" if len(times) < len(some) else ""
        reached.append(f"{span(times)}{share}" if times else "not reached")
    results.row(f"to a val AUC of {BAR}, s", *reached)
    results.row(
        "of processors, s", *(span([s.processor for s in x]) for x in sides.values())
    )
    results.row(
        "video AUC on test", *(span([s.auc for s in x], ".3f") for x in sides.values())
    )
    results.row(
        "peak memory, MB", *(span([s.memory / 1e6 for s in x]) for x in sides.values())
    )
    results.row(
        "disk, MB for 1,000 videos",
        *(span([s.disk / 1e3 / num_videos for s in x]) for x in sides.values()),
    )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--identities", type=int, default=64)
    table.add_option(parser)
    options = parser.parse_args()
    config = settings.load("demo")
    with table.results(parser, options) as out, tempfile.TemporaryDirectory() as temp:
        place, videos = Path(temp), Path(temp, "videos")
        made = config.synthetic.to_dict() | {"num_identities": options.identities}
        tree.write_tree(
            videos, **made, methods=config.dataset.methods, compressions=("c23",)
        )
        sides: dict[str, list[Side]] = {"this project": [], "field's practice": []}
        rows = place / "videos.json"
        for number in range(options.rounds):
            folder = place / str(number)
            folder.mkdir()
            own = own_side(videos, folder, options)
            sides["this project"].append(own)
            num_videos = list_videos(videos, folder / "tfds", rows)
            if number == 0:
                _choose(out, rows, place / "first", folder, options)
            sides["field's practice"].append(peer_side(rows, folder, options))
            for name, some in sides.items():
                print(f"round {number + 1}, {name}: {some[-1]}", file=sys.stderr)
        out.say(
            f"{num_videos} videos, {options.steps} steps of 12 clips of 6 frames at 64 "
            f"px, {os.cpu_count()} cores, {options.rounds} rounds, median (min to max)."
        )
        tell(out, sides, num_videos)


def _choose(
    out: table.Results,
    rows: Path,
    crops: Path,
    folder: Path,
    options: argparse.Namespace,
) -> None:
    """How many steps both sides take, and how the peer computes them."""
    metrics = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    options.steps = json.loads(metrics[-1])["step"]
    run([PEER, "crops", str(rows), str(crops)])
    found = json.loads(run([PEER, "rates", str(rows), str(crops)]).lines[-1])
    cost = {k: v["first"] + options.steps * v["step"] for k, v in found.items()}
    options.compiled = cost["compiled"] < cost["eager"]
    words = [
        f"{name} {1000 * value['step']:.0f} ms a step after {value['first']:.0f} s"
        for name, value in found.items()
    ]
    out.say(f"The peer, beforehand: {', '.join(words)}.")


if __name__ == "__main__":
    main()
