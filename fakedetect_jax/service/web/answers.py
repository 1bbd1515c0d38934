"""What the service answers, as OpenAPI describes it."""

from typing import Literal

from pydantic import BaseModel, Field

from fakedetect_jax.service.queue.jobs import Job


class JobAnswer(BaseModel):
    """A video that was handed in."""

    id: str = Field(description="Names the job; who knows it may read and delete it.")
    name: str = Field(description="The file's name as it was given, shortened.")
    size: int = Field(description="Bytes of the file.")
    sha256: str = Field(description="Digest of the file.")
    state: Literal["waiting", "running", "done", "failed"]
    place: int | None = Field(
        description="While it waits: how many are before it. Else null."
    )
    phase: str = Field(
        description="While it runs: reading, looking (for shots), scoring or "
        "explaining. Else empty."
    )
    frames_done: int = Field(description="Frames of the video that were read.")
    frames: int = Field(description="Frames of the video; 0 until they are counted.")
    outcome: str = Field(description="Of a job that is done; see the result.")
    reason: str = Field(description="Why a job failed; else empty.")
    attempt: int = Field(description="How often it was begun.")
    evidence: bool = Field(description="Whether page, evidence and copy are made.")
    playable: Literal["", "wanted", "ready", "none"] = Field(
        description="The copy that browsers play: not yet, being made, there, or none."
    )
    playable_reason: str = Field(description="Why there is no copy; else empty.")
    playable_start: float = Field(
        description="Seconds of the video that are 0 in the copy."
    )
    created: float = Field(description="Seconds since 1970.")
    started: float = Field(description="Seconds since 1970; 0 before.")
    finished: float = Field(description="Seconds since 1970; 0 before.")
    kept_until: float | None = Field(
        description="When all of it is deleted; null until it is done."
    )


class Band(BaseModel):
    """Between these two a score is uncertain: at or below low real, above high fake."""

    low: float
    high: float


class ModelAnswer(BaseModel):
    """The model that scores, and what this service allows."""

    ready: bool = Field(description="Whether a worker has loaded the model.")
    trained_on: str = ""
    made: bool = Field(
        default=False, description="Trained on made videos: means nothing on real ones."
    )
    step: int = 0
    weights: str = Field(default="", description="First digits of their SHA-256.")
    guard: str = ""
    calibrated: bool = False
    threshold: float = Field(default=0.5, description="Above it: called fake.")
    band: Band | None = None
    card: str = Field(default="", description="The model card as HTML.")
    max_bytes: int = 0
    keep_seconds: float = 0.0
    samples: int = Field(default=0, description="Made videos to try it with.")


class ErrorAnswer(BaseModel):
    """Why a request was refused, in a sentence."""

    error: str


class HealthAnswer(BaseModel):
    """Whether the service works: the store answers, and a model is loaded."""

    ok: bool
    store: str
    model: Literal["ready", "loading"]


def job_answer(job: Job, place: int | None, keep_seconds: float) -> JobAnswer:
    """A job as it is answered; place: how many are before it."""
    return JobAnswer(
        id=job.id,
        name=job.name,
        size=job.size,
        sha256=job.sha256,
        state=job.state,  # pyright: ignore[reportArgumentType] - pydantic checks it
        place=place,
        phase=job.phase,
        frames_done=job.frames_done,
        frames=job.frames,
        outcome=job.outcome,
        reason=job.reason,
        attempt=job.attempt,
        evidence=job.evidence,
        playable=job.copy,  # pyright: ignore[reportArgumentType]
        playable_reason=job.copy_reason,
        playable_start=job.copy_start,
        created=job.created,
        started=job.started,
        finished=job.finished,
        kept_until=job.finished + keep_seconds if job.finished else None,
    )
