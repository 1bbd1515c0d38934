"""A run that is killed again and again, beside the same run left alone.

python -m benchmarks.survive [--quick] [--out runs/survive]

1. One demo-sized run undisturbed; one that gets 20 kill -9 and 10 SIGTERM at random
   moments, saves among them, and is started again each time. Compared: the loss of
   every step, every leaf of the final state, bit for bit.
2. 50 times one random bit of one file of the newest checkpoint is flipped. Counted: how
   often it is found, and how often the checkpoint before is used.
"""

import argparse
import contextlib
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks import table

CONFIG = "configs/demo.py"


def command(workdir: Path, quick: bool) -> list[str]:
    """The run: the demo as it is, or a small model on as many steps."""
    words = [sys.executable, "-m", "fakedetect_jax.main", f"--config={CONFIG}"]
    words += [f"--workdir={workdir}", "--config.eval.final_split="]
    # Saves every few steps, so that kills fall into saves too.
    words += ["--config.checkpoint.every_steps=7"]
    if quick:
        words += ["--config.model.stage_sizes=(1,1)", "--config.model.width=8"]
        words += ["--config.model.lstm_features=8", "--config.num_epochs=4"]
        words += ["--config.dataset.image_size=32", "--config.dataset.name=survive"]
        words += ["--config.dataset.num_frames=12", "--config.batch_size=8"]
        words += ["--config.synthetic.num_identities=12"]
        words += ["--config.synthetic.frame_size=128"]
        words += ["--config.data.manual_dir=runs/survive-data/videos"]
        words += ["--config.data.data_dir=runs/survive-data/tfds"]
    return words


def undisturbed(workdir: Path, quick: bool) -> float:
    """Runs to the end; its seconds."""
    started = time.perf_counter()
    subprocess.run(
        command(workdir, quick), check=True, stdout=subprocess.DEVNULL, timeout=7200
    )
    return time.perf_counter() - started


def steps_done(workdir: Path) -> int:
    """The step of the newest line of metrics.jsonl."""
    try:
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        return max((json.loads(line)["step"] for line in lines), default=0)
    except (FileNotFoundError, ValueError):
        return 0


def saving(workdir: Path) -> bool:
    """Whether a checkpoint is being written at this moment."""
    folder = workdir / "checkpoints"
    if not folder.is_dir():
        return False
    names = {path.name for path in folder.iterdir()}
    unfinished = {n for n in names if n.isdigit() and f"{n}.digest.json" not in names}
    return bool(unfinished) or any("tmp" in name for name in names)


def disturbed(workdir: Path, quick: bool, signals: Sequence[int], seed: int) -> dict:
    """The run under fire; how often which signal came, and into which moment."""
    rng = random.Random(seed)
    waiting, sent = list(signals), {"kill": 0, "term": 0, "during a save": 0}
    rng.shuffle(waiting)
    starts, into_saves = 0, 0
    while True:
        starts += 1
        process = subprocess.Popen(
            command(workdir, quick),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if waiting:
            number = waiting[0]
            # Every third waits for a save to be under way, the others for a while.
            # A run advances by a few steps between two signals.
            begin, goal = steps_done(workdir), rng.randrange(0, 6)
            while process.poll() is None and steps_done(workdir) < begin + goal:
                time.sleep(0.005)
            if len(waiting) % 3 == 0:
                while process.poll() is None and not saving(workdir):
                    time.sleep(0.001)
            else:
                time.sleep(rng.random() * 0.5)
            if process.poll() is None:
                into_saves += saving(workdir)
                process.send_signal(number)
                waiting.pop(0)
                sent["kill" if number == signal.SIGKILL else "term"] += 1
        _, err = process.communicate(timeout=3600)
        if process.returncode == 0:
            break
        # -SIGTERM: it came before Python could listen.
        expected = (-signal.SIGKILL, -signal.SIGTERM, 128 + signal.SIGTERM)
        if process.returncode not in expected:
            raise RuntimeError(f"exit {process.returncode}: {err}")
    return {**sent, "during a save": into_saves, "starts": starts, "left": len(waiting)}


def losses(workdir: Path) -> list[tuple]:
    """(step, kind, loss) of every line."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return sorted((row["step"], row["kind"], row["loss"]) for row in lines)


def leaves(workdir: Path) -> dict[str, str]:
    """The digest of every leaf of the newest checkpoint."""
    from fakedetect_jax.run.checkpoint import Checkpoints

    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    try:
        return checkpoints.facts(checkpoints.latest() or 0).digests
    finally:
        checkpoints.close()


class Bits(NamedTuple):
    """What became of flipped bits; intact: the checkpoint is whole without them."""

    flipped: int
    found: int
    recovered: int
    intact: bool


def flip_bits(workdir: Path, times: int, seed: int) -> Bits:
    """Flips one bit at a time; how many were found, how many left a good one."""
    from fakedetect_jax.run.checkpoint import Checkpoints

    rng = random.Random(seed)
    folder = workdir / "checkpoints"

    def opened() -> contextlib.closing[Checkpoints]:
        """As a start after the flip opens them: it reads some of the files."""
        return contextlib.closing(Checkpoints(folder, read_only=True))

    with opened() as checkpoints:
        newest, before = checkpoints.steps()[:2]
    files = [p for p in (folder / str(newest)).rglob("*")]
    files = [p for p in files if p.is_file() and p.stat().st_size]
    found = recovered = 0
    for _ in range(times):
        path = rng.choice(files)
        whole = path.read_bytes()
        content, place = bytearray(whole), rng.randrange(len(whole) * 8)
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(bytes(content))
        with opened() as checkpoints:
            found += checkpoints.damage(newest) is not None
            recovered += checkpoints.latest() == before
        path.write_bytes(whole)
    with opened() as checkpoints:
        intact = checkpoints.latest() == newest
    return Bits(times, found, recovered, intact)


def main() -> None:
    """Runs all; exit code 1 unless everything survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small model, 6 signals")
    parser.add_argument("--out", type=Path, default=Path("runs/survive"))
    parser.add_argument("--seed", type=int, default=0)
    table.add_option(parser)
    options = parser.parse_args()
    with table.results(parser, options) as results:
        survived = measure(options, results)
    sys.exit(0 if survived else 1)


def measure(options: argparse.Namespace, results: table.Results) -> bool:
    """Both runs and the flipped bits; whether nothing was lost."""
    shutil.rmtree(options.out, ignore_errors=True)
    options.out.mkdir(parents=True)
    kills, terms = (4, 2) if options.quick else (20, 10)
    alone, hit = options.out / "alone", options.out / "hit"
    seconds = undisturbed(alone, options.quick)
    signals = [signal.SIGKILL] * kills + [signal.SIGTERM] * terms
    sent = disturbed(hit, options.quick, signals, options.seed)
    same_losses = losses(alone) == losses(hit)
    same_state = leaves(alone) == leaves(hit)
    bits = flip_bits(hit, 50, options.seed)
    results.heads("what", "result")
    results.row("steps, undisturbed", f"{steps_done(alone)} in {seconds:,.0f} s")
    came = ", ".join(f"{name} {count}" for name, count in sent.items())
    results.row("signals to the other run", came)
    results.row("losses equal to the bit", "yes" if same_losses else "NO")
    results.row("last state equal to the bit", "yes" if same_state else "NO")
    results.row(f"of {bits.flipped} flipped bits found", bits.found)
    results.row("the checkpoint before was used", bits.recovered)
    found_all = bits.found == bits.recovered == bits.flipped
    return same_losses and same_state and found_all and bits.intact


if __name__ == "__main__":
    main()
