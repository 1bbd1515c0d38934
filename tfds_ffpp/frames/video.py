"""One video file -> upright RGB frames.

Frames are counted in presentation order. Variable frame rates need no care: frames are
chosen by index everywhere, and each carries its time.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from av.video.frame import VideoFrame

from tfds_ffpp.errors import IrregularVideoError, UnusableVideoError
from tfds_ffpp.frames.decoding import colours
from tfds_ffpp.frames.decoding.container import (
    decode_all,
    open_file,
    open_stream,
    video_stream,
)
from tfds_ffpp.frames.decoding.frames import Again, Clip, DecodedVideo, Seen
from tfds_ffpp.frames.decoding.groups import decode_groups, decode_in_order
from tfds_ffpp.frames.decoding.index import (
    MIN_DECODED,
    Index,
    Loss,
    loss_of,
    read_index,
)
from tfds_ffpp.frames.decoding.shots import HEIGHT, WIDTH, ShotFinder
from tfds_ffpp.frames.found import Alive, unheard

HELD_BYTES = 256 << 20  # of decoded frames; where there are more, none is held
# For pictures that are only looked at to find shots: a fifth less work (H.264).
FAST = {"skip_loop_filter": "all"}
MIN_PARTIAL = 0.5  # the same of a video that is scored for what there is of it

Plan = Callable[[int], Sequence[int]]


def even_plan(num_frames: int) -> Plan:
    """The middles of num_frames equal parts of the video; all of a shorter one."""
    return lambda total: (
        range(total)
        if total <= num_frames
        else [(2 * i + 1) * total // (2 * num_frames) for i in range(num_frames)]
    )


def run_plan(num_frames: int, step: int) -> Plan:
    """A run of frames, step apart, from the middle of the video."""

    def plan(total: int) -> Sequence[int]:
        count = min(num_frames, -(-total // step))
        start = (total - (count - 1) * step - 1) // 2
        return [start + i * step for i in range(count)]

    return plan


def read_clip(path: str | Path, plan: Plan) -> Clip:
    """Decodes the frames that the plan chooses from the video's frame count.

    Raises UnusableVideoError with the reason when the file is not a video, has no
    frames, or is damaged so that under 90 % of its frames decode.
    """

    def whole(total: int, cuts: Sequence[int]) -> list[tuple[int, int]]:
        del cuts
        return [(0, total)]

    try:
        return next(read_windows(path, whole, plan)).clip
    except IrregularVideoError:
        return next(read_windows(path, whole, plan, in_order=True)).clip


def _count_frames(
    file: Index,
    least: float,
    alive: Alive,
    see: Callable[[VideoFrame], None],
) -> tuple[int, Loss | None]:
    """How many frames decode, and what is lost; see: called with each of them.

    Raises UnusableVideoError when they are too few.
    """
    total, timed, times = 0, True, array("q")
    with open_file(file.path) as container:
        for frame in decode_all(container, video_stream(container)):
            total += 1
            see(frame)
            timed = timed and frame.pts is not None
            if timed:
                times.append(frame.pts or 0)
            alive(total, file.promised)
    if total == 0:
        raise UnusableVideoError("0 frames decoded")
    loss = loss_of(file, total, times if timed else array("q"))
    if loss is not None and loss.leaves < least:
        raise UnusableVideoError(str(loss))
    return total, loss


def read_frames(path: str | Path, indices: Sequence[int]) -> Clip:
    """Decodes the frames of these indices; raises if one of them is not there."""

    def plan(total: int) -> Sequence[int]:
        if indices and max(indices) >= total:
            raise UnusableVideoError(
                f"frame {max(indices)} asked for, but the video has {total}"
            )
        return indices

    return read_clip(path, plan)


# Shots ------------------------------------------------------------------------------


class _Shots:
    """Finds where shots begin in the frames that it sees; in none unless asked."""

    def __init__(self, *, wanted: bool):
        self._finder = ShotFinder() if wanted else None
        self._count = 0

    def see(self, frame: VideoFrame) -> None:
        self._count += 1
        if self._finder is not None:
            self._finder.add(colours.small_luma(frame, (HEIGHT, WIDTH)))

    def look_through(
        self, file: Index, threads: int, alive: Alive
    ) -> dict[int, VideoFrame]:
        """Sees all frames; gives them by pts where they are few enough to be held.

        Raises IrregularVideoError if they are not those of the index.
        """
        if self._finder is None or len(file.times) < 2:
            return {}
        shown: dict[int, VideoFrame] = {}
        size = 0
        with open_stream(file.path, threads) as (container, stream):
            context = stream.codec_context
            least = len(file.times) * context.width * context.height
            if least > HELD_BYTES:
                context.options = FAST
            for frame in decode_all(container, stream):
                self.see(frame)
                alive(self._count, len(file.times))
                size += sum(plane.buffer_size for plane in frame.planes)
                if frame.pts is not None and max(size, least) <= HELD_BYTES:
                    shown[frame.pts] = frame
        if self._count != len(file.times):
            raise IrregularVideoError
        return shown if size <= HELD_BYTES and shown.keys() == set(file.times) else {}

    def cuts(self) -> list[int]:
        return self._finder.finish() if self._finder is not None else []


def find_cuts(path: str | Path) -> list[int]:
    """The frames that begin a shot, without the first, of those that decode."""
    shots = _Shots(wanted=True)
    with open_stream(Path(path)) as (container, stream):
        stream.codec_context.options = FAST
        for frame in decode_all(container, stream):
            shots.see(frame)
    return shots.cuts()


def shot_of(cuts: Sequence[int], frame: int) -> int:
    """The number of the shot that a frame lies in; cuts: the frames that begin one."""
    return bisect_right(cuts, frame)


# Long videos -----------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """A stretch of a video, frames start to stop - 1, and the chosen ones of it.

    shot: which of the video's it lies in. Of the clip, indices, timestamps and
    source_frames are those of the whole video.
    """

    start: int
    stop: int
    clip: Clip
    shot: int = 0


# Frame count, and the frames that begin a shot -> (start, stop) of each window.
Cut = Callable[[int, Sequence[int]], Sequence[tuple[int, int]]]


def read_windows(
    path: str | Path,
    cut: Cut,
    plan: Plan,
    *,
    in_order: bool = False,
    find_shots: bool = False,
    least: float = MIN_DECODED,
    threads: int = 1,
    alive: Alive = unheard,
) -> Iterator[Window]:
    """Decodes a video of any length in one pass, one window in memory at a time.

    A video of one window gives the frames that read_clip gives.

    Args:
      path: the video.
      cut: where the windows lie, in order and apart.
      plan: chooses the frames of a window from its length.
      in_order: decode every frame; what to do after IrregularVideoError.
      find_shots: decode all frames first, to see where shots begin; else it is one. A
        video that is small enough is not decoded again for its windows.
      least: the share of the promised frames that must decode.
      threads: that decode; what is found does not depend on it.
      alive: called often, to show that work goes on.

    Raises:
      UnusableVideoError: as read_clip.
      IrregularVideoError: some windows may have been given by then; they are void.
    """
    path = Path(path)
    file = read_index(path, alive)
    shots = _Shots(wanted=find_shots)
    shown: dict[int, VideoFrame] = {}
    if in_order:
        total, loss = _count_frames(file, least, alive, shots.see)
        order: Sequence[int] = range(total)
    else:
        total, order = len(file.times), sorted(file.times)
        if not file.regular or total < MIN_DECODED * file.promised:
            raise IrregularVideoError
        loss = loss_of(file, total, order)
        shown = shots.look_through(file, threads, alive)
    cuts = shots.cuts()
    windows = [(a, b, [a + int(i) for i in plan(b - a)]) for a, b in cut(total, cuts)]
    several = partial(decode_groups, threads=threads)
    decode = decode_in_order if in_order else several

    def again(wanted: set[int]) -> Generator[tuple[int, VideoFrame], None, None]:
        if shown:
            return ((name, shown[name]) for name in order if name in wanted)
        return decode(file, wanted, alive)

    def names_from(number: int) -> set[int]:
        return {order[i] for _, _, indices in windows[number:] for i in indices}

    frames = again(names_from(0))
    kept: dict[int, Seen] = {}
    for number, (start, stop, indices) in enumerate(windows):
        wanted = {order[i] for i in indices}
        held = 0
        while wanted - kept.keys():
            name, frame = next(frames, (None, None))
            if (name is None or frame is None) and in_order:
                raise UnusableVideoError(
                    "damaged: another count of frames decodes each time"
                )
            if name is None or frame is None:
                raise IrregularVideoError
            fits = held <= HELD_BYTES
            held += sum(plane.buffer_size for plane in frame.planes)
            picture = frame if held <= HELD_BYTES else None
            kept[name] = Seen(name, frame.pts, colours.upright_size(frame), picture)
            del frame
            if fits and picture is None:
                kept = {n: replace(seen, picture=None) for n, seen in kept.items()}
        chosen = [kept[order[i]] for i in indices]
        for name in wanted:
            del kept[name]
        begin_again = held > HELD_BYTES and not in_order
        if begin_again:  # a decoder takes memory too, and the clip needs one
            frames.close()
            kept.clear()
        clip = _clip(file, chosen, again, indices, total, loss)
        yield Window(start, stop, clip, shot_of(cuts, start))
        del clip
        del chosen
        if begin_again:
            frames = again(names_from(number + 1))


def _clip(
    file: Index,
    seen: Sequence[Seen],
    again: Again,
    indices: Sequence[int],
    total: int,
    loss: Loss | None,
) -> DecodedVideo:
    return DecodedVideo(
        seen,
        again=again,
        indices=[int(i) for i in indices],
        # A drained decoder's frames have lost their own time base.
        timestamps=[
            i / file.rate if s.pts is None else s.pts * file.unit
            for s, i in zip(seen, indices, strict=True)
        ],
        source_frames=total,
        loss=loss,
        facts=replace(file.facts, height=seen[0].size[0], width=seen[0].size[1]),
    )
