"""How fast the steps go: clips and frames a second, waiting for input, MFU."""

import time
from pathlib import Path
from typing import Any, NamedTuple, cast

import jax
from jax.sharding import Mesh

# Dense bfloat16 operations a second of a device, by the start of JAX's device_kind; the
# first that fits counts. As the makers state them, without sparsity; not measured here.
# A TPU v2 or v3 device is half a chip.
PEAKS = {
    "NVIDIA B200": 2250e12,
    "NVIDIA GH200": 989e12,
    "NVIDIA H200 NVL": 835e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100": 989e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L40": 181e12,
    "NVIDIA L4": 121e12,
    "NVIDIA A100": 312e12,
    "NVIDIA A40": 150e12,
    "NVIDIA A10G": 70e12,
    "NVIDIA A10": 125e12,
    "NVIDIA RTX A6000": 155e12,
    "NVIDIA GeForce RTX 4090": 165e12,
    "NVIDIA GeForce RTX 3090": 71e12,
    "TPU v6 lite": 918e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
    "TPU v3": 61.5e12,
    "TPU v2": 22.5e12,
}


def peak_flops(mesh: Mesh, dtype: str) -> float | None:
    """Operations a second that all devices of a mesh could do at best.

    None for kinds that are not in PEAKS, as CPUs, and for another dtype than bfloat16.
    """
    kind = mesh.devices.flat[0].device_kind
    found = (peak for start, peak in PEAKS.items() if kind.startswith(start))
    peak = next(found, None)
    return peak * mesh.devices.size if peak and dtype == "bfloat16" else None


class Speed(NamedTuple):
    """How fast some steps were."""

    seconds: float
    clips_per_second: float
    frames_per_second: float
    # Model FLOPs utilisation (Chowdhery et al. 2022): the share of the devices' peak
    # that the step's operations, as the compiler counts them, amount to. None where the
    # peak is not known. With model.remat it counts what is computed twice.
    mfu: float | None
    input_wait: float  # share of the time, at most

    def numbers(self) -> dict[str, float]:
        """What metrics.jsonl has of it."""
        rates = {
            "clips_per_second": round(self.clips_per_second, 2),
            "frames_per_second": round(self.frames_per_second, 1),
        }
        return rates if self.mfu is None else {**rates, "mfu": round(self.mfu, 4)}

    def __str__(self) -> str:
        shown = f"{self.clips_per_second:.1f} clips/s, {self.frames_per_second:,.0f} "
        return (
            shown + "frames/s" + ("" if self.mfu is None else f", MFU {self.mfu:.1%}")
        )


class Clock:
    """Takes the time of an epoch's steps; it begins when it is made."""

    def __init__(
        self, batch_size: int, clip_frames: int, *, flops: float = 0.0, peak=None
    ):
        """What a step is, over all devices and hosts.

        Args:
          batch_size: its clips.
          clip_frames: the frames of each.
          flops: its operations.
          peak: what the devices could do in a second; None where not known.
        """
        self._batch_size, self._clip_frames = batch_size, clip_frames
        self._flops, self._peak = flops, peak
        self._began = self._last = time.perf_counter()
        self._steps = 0
        self._waited = 0.0

    def count_wait(self, seconds: float, running: jax.Array | None) -> None:
        """Adds the time that a batch took, unless a step ran until after it came.

        running: a result of the step that was under way.

        An upper bound of the time for which the devices had nothing to do.
        """
        # Every array has is_ready(); jax's type stubs leave it out.
        if running is None or cast(Any, running).is_ready():
            self._waited += seconds

    def count_step(self) -> Speed:
        """Counts a step that has ended; how fast it was."""
        last, self._last = self._last, time.perf_counter()
        self._steps += 1
        return self._speed(1, self._last - last, 0.0)

    def read(self) -> Speed:
        """The epoch up to now."""
        return self._speed(self._steps, time.perf_counter() - self._began, self._waited)

    def _speed(self, steps: int, seconds: float, waited: float) -> Speed:
        seconds = max(seconds, 1e-9)
        clips = steps * self._batch_size / seconds
        peak, mfu = self._peak, None
        if peak and self._flops:
            mfu = self._flops * steps / seconds / peak
        return Speed(seconds, clips, clips * self._clip_frames, mfu, waited / seconds)


class Trace:
    """A trace of some steps by jax.profiler, in the folder that TensorBoard shows."""

    def __init__(self, folder: Path, steps: range | None):
        """Traces nothing with None."""
        self._folder, self._steps, self._runs = folder, steps, False

    def begin(self, step: int) -> None:
        """Starts the trace before its first step."""
        if self._steps and step == self._steps[0]:
            jax.profiler.start_trace(self._folder)
            self._runs = True

    def end(self, step: int, result: Any) -> None:
        """Ends it after its last step, for whose result it waits."""
        if self._runs and self._steps and step == self._steps[-1]:
            jax.block_until_ready(result)
            self.close()

    def close(self) -> None:
        """Ends it, where it was not: what was traced is kept."""
        if self._runs:
            self._runs = False
            jax.profiler.stop_trace()
