"""What the service answers, as OpenAPI describes it."""

from typing import Literal

from pydantic import BaseModel, Field

from fakedetect_jax.service.queue.jobs import (
    ANNOTATED,
    COPY,
    EXPLAINED,
    NONE,
    Job,
    Made,
)

State = Literal["", "wanted", "ready", "none"]


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
        description="While it runs: reading, looking (for shots) or scoring. Else "
        "empty."
    )
    frames_done: int = Field(description="Frames of the video that were read.")
    frames: int = Field(description="Frames of the video; 0 until they are counted.")
    outcome: str = Field(description="Of a job that is done; see the result.")
    reason: str = Field(
        description="Why a job failed, or why it waits though it is next; else empty."
    )
    attempt: int = Field(description="How often it was begun.")
    evidence: bool = Field(description="Whether more than a result can be had.")
    explained: State = Field(
        description="Page, evidence and table: not yet, to be made, there, or none. "
        "Who asks for one has it made first."
    )
    explained_reason: str = Field(description="Why there are none; else empty.")
    playable: State = Field(
        description="The copy that browsers play: not yet, to be made, there, or none."
    )
    playable_reason: str = Field(description="Why there is no copy; else empty.")
    playable_start: float = Field(
        description="Seconds of the video that are 0 in the copy."
    )
    annotated: State = Field(
        description="The video with what was found drawn into it: made when asked for."
    )
    annotated_reason: str = Field(description="Why there is none; else empty.")
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
    """Whether the service works: a store that answers, a model, space on the disk."""

    ok: bool
    store: str
    model: Literal["ready", "loading"]
    disk: Literal["ok", "full"]


def job_answer(
    job: Job, place: int | None, keep_seconds: float, waits_for: str = ""
) -> JobAnswer:
    """A job as it is answered; place: how many are before it; waits_for: what keeps
    the service from going on."""
    nothing = Made("" if job.evidence or not job.finished else NONE)
    explained, copy, drawn = (
        job.made.get(kind, nothing) for kind in (EXPLAINED, COPY, ANNOTATED)
    )
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
        reason=job.reason or ("" if job.finished else waits_for),
        attempt=job.attempt,
        evidence=job.evidence,
        explained=explained.state,  # pyright: ignore[reportArgumentType]
        explained_reason=explained.reason,
        playable=copy.state,  # pyright: ignore[reportArgumentType]
        playable_reason=copy.reason,
        playable_start=copy.start,
        annotated=drawn.state,  # pyright: ignore[reportArgumentType]
        annotated_reason=drawn.reason,
        created=job.created,
        started=job.started,
        finished=job.finished,
        kept_until=job.finished + keep_seconds if job.finished else None,
    )
