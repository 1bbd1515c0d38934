"""The service beside predict, under many clients, and over hundreds of videos.

python -m benchmarks.service MODEL VIDEOS [--compared 60] [--soak 500] [--clients 200]

MODEL is a workdir or an export, VIDEOS a folder; 0 leaves a part out. Throughput is
measured in turns with a Detector as predict sets it up, both with their programs
compiled: scores alone; scores of jobs that want evidence, which is made after them; and
until all evidence is there, beside predict's pages (to which the service adds a copy
that browsers play). Then clients hand videos in at once while others ask for /healthz.
At last videos go through ten at a time, each with all that is made of it, until they
are deleted, and what the two processes hold is compared with what they held after the
first ten.
"""

import argparse
import dataclasses
import itertools
import os
import statistics
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks import table
from fakedetect_jax.reports.video_result import VideoResult
from fakedetect_jax.service import scoring
from fakedetect_jax.serving import evidence, sources
from fakedetect_jax.serving.detector import Detector
from fakedetect_jax.serving.tracks import Pending
from tests.service.server import FORM, Server, form
from tfds_ffpp import system

ROUNDS = 3
WARM = 10  # videos before anything is measured
SETTLE_SECONDS = 3.0  # for connections to close


class Seconds(NamedTuple):
    """Until all videos had their result, and until all else was made."""

    results: float
    all: float


def through_service(
    server: Server, videos: list[Path], *, pages: bool, drawn: bool = False
) -> Seconds:
    """Hands videos in, waits and deletes them; drawn: with their annotated videos."""
    began = time.perf_counter()
    query = f"?evidence={int(pages)}"
    ids = [server.hand_in(path, query) for path in videos]
    for id in ids:
        while server.job(id)["state"] not in ("done", "failed"):
            time.sleep(0.02)
    results = time.perf_counter() - began
    for id in ids:
        server.until(id, whole=True)
        if drawn:
            answer = server.get(f"/v1/jobs/{id}/annotated")
            assert answer.status == 200, answer
    seconds = time.perf_counter() - began
    for id in ids:
        server.ask("DELETE", f"/v1/jobs/{id}")
    return Seconds(results, seconds)


def through_predict(detector: Detector, videos: list[Path], *, pages: bool) -> float:
    """The same with a Detector."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:

        def write(result: VideoResult, video: Pending) -> VideoResult:
            if not pages:
                return result
            page = evidence.write_page(detector.network, result, video, Path(folder))
            return dataclasses.replace(result, page=str(page))

        list(detector.results([str(path) for path in videos], inspect=write))
    return time.perf_counter() - began


def compare(
    results: table.Results, server: Server, detector: Detector, videos: list[Path]
) -> None:
    """A row for each kind of work."""
    rates: dict[str, list[tuple[float, float]]] = {}

    def note(work: str, predict: float, service: float) -> None:
        pair = len(videos) / predict, len(videos) / service
        rates.setdefault(work, []).append(pair)

    for _ in range(ROUNDS):
        plain = through_predict(detector, videos, pages=False)  # in turns
        note("scores", plain, through_service(server, videos, pages=False).results)
        paged = through_predict(detector, videos, pages=True)
        seconds = through_service(server, videos, pages=True)
        note("scores, with evidence to follow", plain, seconds.results)
        note("scores and all evidence", paged, seconds.all)
    results.heads("work", "videos/s of predict", "videos/s of the service", "ratio")
    for work, pairs in rates.items():
        predict, service = (
            statistics.median(side) for side in zip(*pairs, strict=True)
        )
        ratio = statistics.median(s / p for p, s in pairs)
        results.row(work, f"{predict:.2f}", f"{service:.2f}", f"{ratio:.2f}")
    results.say()
    results.say(f"Medians of {ROUNDS} rounds in turns over {len(videos)} videos.")
    results.say()
    totals = {
        kind: server.metric(f'fakedetect_phase_seconds_total{{phase="{kind}"}}')
        for kind in ("explained", "copy")
    }
    videos_made = server.metric('fakedetect_phase_videos_total{phase="copy"}')
    said = ", ".join(f"{kind} {s / videos_made:.2f} s" for kind, s in totals.items())
    results.say(f"What a video costs after its result: {said}.")


def crowd(results: table.Results, server: Server, video: Path, clients: int) -> None:
    """What many clients at once get, and how quick /healthz is meanwhile."""
    body, seconds, statuses = form(video.read_bytes()), [], Counter()
    stop = threading.Event()

    def send() -> None:
        answer = server.ask("POST", "/v1/videos?evidence=0", body, **FORM)
        statuses[answer.status] += 1
        if answer.status != 202:
            assert int(answer.headers["retry-after"]) > 0

    def look() -> None:
        while not stop.wait(0.01):
            began = time.perf_counter()
            server.get("/healthz")
            seconds.append(time.perf_counter() - began)

    looking = threading.Thread(target=look)
    threads = [threading.Thread(target=send) for _ in range(clients)]
    for thread in (looking, *threads):
        thread.start()
    for thread in threads:
        thread.join()
    while server.metric("fakedetect_jobs"):
        time.sleep(0.2)  # /healthz is asked for while the queue is worked off
    stop.set()
    looking.join()
    seconds.sort()
    results.say()
    said = ", ".join(
        f"{count} of {status}" for status, count in sorted(statuses.items())
    )
    middle, late = seconds[len(seconds) // 2], seconds[int(0.95 * len(seconds))]
    results.say(
        f"{clients} clients at once: {said}. /healthz until the queue was empty, "
        f"{len(seconds)} times: median {1000 * middle:.0f} ms, 95th percentile "
        f"{1000 * late:.0f} ms."
    )


class Held(NamedTuple):
    """What the server's processes hold: bytes, descriptors, and files on disk."""

    memory: int
    descriptors: int
    files: int


def held(server: Server) -> Held:
    """Now; the processes that decode are not counted, but must be there."""
    process = psutil.Process(server.process.pid)
    both = [process, *process.children()]
    files = sum(len(files) for _, _, files in os.walk(server.data))
    return Held(
        sum(one.memory_info().rss for one in both),
        sum(one.num_fds() for one in both),
        files,
    )


def soak(
    results: table.Results, server: Server, videos: list[Path], count: int
) -> None:
    """Many videos with all that is made of them, until all is deleted."""
    found: dict[int, Held] = {}
    source = itertools.cycle(videos)
    done = 0
    for target in sorted({WARM, *range(count // 5, count + 1, max(count // 5, 1))}):
        while done < target:
            some = [next(source) for _ in range(min(WARM, target - done))]
            through_service(server, some, pages=True, drawn=True)
            done += len(some)
        time.sleep(SETTLE_SECONDS)
        found[done] = held(server)
    results.heads("after videos", "memory, MiB", "descriptors", "files")
    for number, one in found.items():
        memory = f"{one.memory / 2**20:.0f}"
        results.row(number, memory, one.descriptors, one.files)


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a workdir, or an export")
    parser.add_argument("videos", help="a folder of them")
    parser.add_argument("--compared", type=int, default=60)
    parser.add_argument("--soak", type=int, default=500)
    parser.add_argument("--clients", type=int, default=200)
    table.add_option(parser)
    options = parser.parse_args()
    found = [s for s in sources.find([options.videos]) if s.is_video]
    every = max(len(found) // (options.compared or len(found)), 1)
    videos = [Path(source.name) for source in found[::every]]
    videos = videos[: options.compared or len(videos)]
    kind = "model" if (options.model / "model.json").exists() else "workdir"
    free = ("--uploads_per_minute=0", "--requests_per_minute=0")
    with (
        tempfile.TemporaryDirectory() as folder,
        table.results(parser, options) as results,
        Server(Path(folder) / "data", f"--{kind}={options.model}", *free) as server,
    ):
        server.until_ready()
        os.nice(scoring.NICE)  # as the worker is, so that a busy machine treats alike
        if options.compared:
            with Detector.load(
                options.model, apart=True, num_processes=system.num_cores()
            ) as detector:
                for pages in (True, False):
                    through_service(server, videos[:WARM], pages=pages)
                    through_predict(detector, videos[:WARM], pages=pages)
                compare(results, server, detector, videos)
        if options.clients:
            crowd(results, server, videos[0], options.clients)
        if options.soak:
            soak(results, server, videos, options.soak)


if __name__ == "__main__":
    main()
