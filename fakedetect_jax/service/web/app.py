"""The routes: the page, and the JSON service under /v1."""

import asyncio
import contextlib
import shutil
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException as RoutingException
from starlette.requests import ClientDisconnect

from fakedetect_jax.reports.video_result import VideoResult
from fakedetect_jax.service.options import Serving
from fakedetect_jax.service.queue import jobs, places
from fakedetect_jax.service.queue.jobs import (
    ANNOTATED,
    COPY,
    EXPLAINED,
    WANTED,
    Job,
    NewJob,
)
from fakedetect_jax.service.queue.places import Places, is_no_space
from fakedetect_jax.service.queue.store import Store
from fakedetect_jax.service.web import metrics, upload, watch
from fakedetect_jax.service.web.answers import (
    ErrorAnswer,
    HealthAnswer,
    JobAnswer,
    ModelAnswer,
    job_answer,
)
from fakedetect_jax.service.web.limits import Access, Guard, Rate
from fakedetect_jax.service.web.upload import Refused
from fakedetect_jax.serving import sources

STATIC = Path(__file__).parent / "static"
MOST_PER_CLIENT = 8  # uploads at a time
MAKING_SECONDS = 40.0  # that a request waits for what is made
BEAT_SECONDS = 10.0  # between two signs of life of a stream
ABOUT = (
    "Hands videos in, tells how far they are, and gives the results. A score is a "
    "hint, never a proof."
)
_ERRORS = {
    code: {"model": ErrorAnswer}
    for code in (400, 401, 403, 404, 408, 409, 413, 415, 421, 429, 503, 507)
}


def _errors(*codes: int) -> dict:
    """What OpenAPI says of refusals; any route may answer the first four."""
    return {code: _ERRORS[code] for code in (401, 421, 429, 503, *codes)}


@dataclass
class Service:
    """What the routes work with; uploads: how many are coming in, by client."""

    options: Serving
    store: Store
    places: Places
    watch: watch.Watch
    metrics: metrics.Metrics
    uploads: Counter[str] = field(default_factory=Counter)

    def answer(self, job: Job) -> JobAnswer:
        """A job, with its place; asks the store."""
        seen = watch.see(self.store, [job.id]).get(job.id)
        place = seen.place if seen else None
        keep, waits_for = self.options.keep_seconds, self.watch.waits_for
        return job_answer(job, place, keep, waits_for)

    def model(self) -> ModelAnswer:
        """What a worker said of its model, and what this service allows."""
        text = self.store.model()
        found = ModelAnswer.model_validate_json(text or '{"ready": false}')
        found.max_bytes = self.options.max_bytes
        found.keep_seconds = self.options.keep_seconds
        if found.made:
            found.samples = len(places.sample_paths(self.places.samples))
        return found

    def retry_after(self) -> int:
        """Seconds after which a place in the queue is likely to be free."""
        totals = {(t.name, t.label): t.value for t in self.store.totals()}
        videos = totals.get(("videos", "score"), 0.0)
        each = totals.get(("seconds", "score"), 0.0) / videos if videos else 5.0
        return int(min(max(each, 1.0), 300.0)) + 1


def make_app(service: Service) -> FastAPI:
    """The application, without what guards it."""

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        looking = asyncio.create_task(service.watch.run())
        yield
        looking.cancel()

    app = FastAPI(
        title="fakedetect",
        version="1",
        description=ABOUT,
        docs_url=None,  # theirs loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        root_path=service.options.root,
        lifespan=life,
    )
    app.state.store = service.store
    _add_faults(app, service)
    _add_pages(app, service)
    _add_uploads(app, service)
    _add_jobs(app, service)
    _add_files(app, service)
    return app


def guarded(service: Service) -> Guard:
    """The application behind its guard."""
    options = service.options
    access = Access(
        options.token,
        options.hosts,
        uploads=Rate(options.uploads_per_minute),
        requests=Rate(options.requests_per_minute),
    )

    def count(why: str) -> None:
        service.metrics.refused[why] += 1

    return Guard(make_app(service), access, count)


# Faults ----------------------------------------------------------------------------


def _add_faults(app: FastAPI, service: Service) -> None:
    def answer(status: int, sentence: str, after: int = 0) -> JSONResponse:
        headers = {"retry-after": str(after)} if after else {}
        if status in (400, 408, 413, 415, 429, 503, 507):
            headers["connection"] = "close"  # what is left of a body is not read
        return JSONResponse({"error": sentence}, status, headers)

    @app.exception_handler(Refused)
    def refused(request: Request, error: Refused) -> JSONResponse:
        service.metrics.refused[str(error.status)] += 1
        return answer(error.status, error.sentence, error.after)

    @app.exception_handler(jobs.QueueFull)
    def full(request: Request, error: jobs.QueueFull) -> JSONResponse:
        service.metrics.refused["queue"] += 1
        return answer(503, str(error), service.retry_after())

    @app.exception_handler(jobs.StoreGone)
    def gone(request: Request, error: jobs.StoreGone) -> JSONResponse:
        return answer(503, str(error), 10)

    @app.exception_handler(jobs.StoreFull)
    def no_space(request: Request, error: jobs.StoreFull) -> JSONResponse:
        return answer(507, str(error), 60)

    @app.exception_handler(ClientDisconnect)
    def left(request: Request, error: ClientDisconnect) -> JSONResponse:
        return answer(400, "the client left")

    @app.exception_handler(RoutingException)
    def routing(request: Request, error: RoutingException) -> JSONResponse:
        found = answer(error.status_code, str(error.detail).lower())
        found.headers.update(error.headers or {})
        return found

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:])
        return answer(400, f"{where}: {first['msg'].lower()}")


_FRESH = {"cache-control": "no-cache"}


# Pages -----------------------------------------------------------------------------


def _add_pages(app: FastAPI, service: Service) -> None:
    app.mount("/static", StaticFiles(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    def page() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers=_FRESH)

    @app.get("/docs", include_in_schema=False)
    def reference() -> FileResponse:
        return FileResponse(STATIC / "api.html", headers=_FRESH)

    @app.get("/healthz", responses={503: {"model": HealthAnswer}})
    async def health(response: Response) -> HealthAnswer:
        """Whether videos can be handed in and are scored: store, model, disk."""
        seen = service.watch
        ok = not seen.fault and seen.has_model and not seen.is_full
        response.status_code = 200 if ok else 503
        model = "ready" if seen.has_model else "loading"
        disk = "full" if seen.is_full else "ok"
        return HealthAnswer(ok=ok, store=seen.fault or "ok", model=model, disk=disk)

    @app.get(
        "/metrics",
        responses={200: {"content": {metrics.KIND: {}}}, **_errors()},
        response_class=Response,
    )
    def measured() -> Response:
        """Queue, outcomes, seconds by phase and refusals, for Prometheus."""
        return Response(service.metrics.text(), media_type=metrics.KIND)

    @app.get("/v1/model", responses=_errors())
    def model() -> ModelAnswer:
        """The model that scores, its card, and what the service allows."""
        return service.model()


# Videos in -------------------------------------------------------------------------

_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [upload.FIELD],
                    "properties": {
                        upload.FIELD: {"type": "string", "format": "binary"}
                    },
                }
            }
        },
    }
}


def _add_uploads(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/videos",
        status_code=202,
        responses=_errors(400, 403, 408, 413, 415, 507),
        openapi_extra=_BODY,
    )
    async def hand_in(
        request: Request,
        evidence: Annotated[
            bool, Query(description="Whether more than the result can be had.")
        ] = True,
    ) -> JobAnswer:
        """Hands a video in: one file, in the field `video`."""
        client = request.client.host if request.client else ""
        length = request.headers.get("content-length", "")
        id = jobs.new_id()
        _count_in(service, client)
        try:
            await _check_room(service, int(length) if length.isdecimal() else 0)
            received = await upload.receive(
                request.stream(),
                request.headers.get("content-type", ""),
                service.places.incoming(id),
                most=service.options.max_bytes,
                stall=service.options.stall_seconds,
            )
        finally:
            service.uploads[client] -= 1
            service.uploads += Counter()  # forgets who has none
        new = NewJob(id, received.name, received.size, received.sha256, evidence)
        return await asyncio.to_thread(_accept, service, new)

    @app.post("/v1/samples", status_code=202, responses=_errors(403, 404, 507))
    def try_samples() -> list[JobAnswer]:
        """Hands in a made forgery and a made original, of a model of made videos."""
        found = places.sample_paths(service.places.samples)
        if not found or not service.model().made:
            raise HTTPException(404, "there are no samples, or not yet")
        answers = []
        try:
            for path in found:
                answers.append(_accept_sample(service, path))
        except BaseException:  # nobody would know of those
            for answer in answers:
                with contextlib.suppress(jobs.StoreGone, jobs.StoreFull):
                    service.store.delete(answer.id)
                service.places.remove(answer.id)
            raise
        return answers


def _count_in(service: Service, client: str) -> None:
    """Counts an upload that begins. Raises Refused where there are too many.

    Nothing else of the event loop runs between the question and the count.
    """
    if service.uploads.total() >= service.options.most_uploads:
        raise Refused(503, "many videos are coming in; try again", after=2)
    if service.uploads[client] >= MOST_PER_CLIENT:
        raise Refused(429, "this client sends several videos already", after=2)
    service.uploads[client] += 1


async def _check_room(service: Service, length: int) -> None:
    """Raises Refused where a video cannot be taken in now."""
    options = service.options
    if length > options.max_bytes + upload.BETWEEN:
        raise Refused(413, f"the file is larger than {options.max_bytes:,} bytes")
    counts = await asyncio.to_thread(service.store.counts)
    if counts.waiting >= options.most_waiting:
        raise jobs.QueueFull(f"{counts.waiting} videos wait already; try again later")
    _need_space(service, length or options.max_bytes)


def _need_space(service: Service, size: int) -> None:
    if not service.places.has_room(size):
        raise Refused(507, upload.FULL, after=60)


def _accept(service: Service, new: NewJob) -> JobAnswer:
    """Takes an upload that is whole into the queue."""
    try:
        service.places.accept(new.id)
        job = service.store.add(new, most=service.options.most_waiting)
    except BaseException as error:
        service.places.incoming(new.id).unlink(missing_ok=True)
        service.places.remove(new.id)
        if is_no_space(error):
            raise Refused(507, upload.FULL, after=60) from error
        raise
    return service.answer(job)


def _accept_sample(service: Service, path: Path) -> JobAnswer:
    id, size = jobs.new_id(), path.stat().st_size
    _need_space(service, size)
    digest = sources.digest_of(str(path))
    try:
        shutil.copyfile(path, service.places.incoming(id))
    except OSError as error:
        service.places.incoming(id).unlink(missing_ok=True)
        if is_no_space(error):  # by now
            raise Refused(507, upload.FULL, after=60) from error
        raise
    return _accept(service, NewJob(id, path.name, size, digest, evidence=True))


# Jobs ------------------------------------------------------------------------------


def _find(request: Request, id: str) -> Job:
    """The job of a path. Raises HTTPException where there is none."""
    store: Store = request.app.state.store
    job = store.get(id).get(id) if jobs.is_id(id) else None
    if job is None:
        raise HTTPException(404, "there is no such job; it may have been deleted")
    return job


Found = Annotated[Job, Depends(_find)]


def _add_jobs(app: FastAPI, service: Service) -> None:
    @app.get("/v1/jobs/{id}", responses=_errors(404))
    def show(job: Found) -> JobAnswer:
        """How far a job is."""
        return service.answer(job)

    @app.get(
        "/v1/jobs/{id}/events",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {}}}, **_errors(404)},
    )
    async def follow(job: Found) -> StreamingResponse:
        """Server-sent events: the job whenever it has changed, until it is over."""
        events = _events(service, job.id)
        return StreamingResponse(events, media_type="text/event-stream")

    @app.get(
        "/v1/jobs/{id}/result", response_model=VideoResult, responses=_errors(404, 409)
    )
    def result(job: Found) -> Response:
        """The result, as predict writes it. 409 while there is none."""
        row = service.store.row(job.id)
        if row is None:
            said = job.reason if job.state == jobs.FAILED else f"the job is {job.state}"
            raise HTTPException(409, f"there is no result: {said}")
        headers = _as_file(job, "json")
        return Response(row, media_type="application/json", headers=headers)

    @app.delete("/v1/jobs/{id}", status_code=204, responses=_errors(403, 404))
    def delete(job: Found) -> Response:
        """Deletes the video, the result and all that was made of them, at once."""
        service.store.delete(job.id)
        service.places.remove(job.id)
        return Response(status_code=204)


async def _events(service: Service, id: str) -> AsyncIterator[str]:
    last, silent = None, 0.0
    async for seen in service.watch.follow(id):
        if seen is None:
            yield "event: gone\ndata: {}\n\n"
            return
        answer = job_answer(
            *(seen.job, seen.place, service.options.keep_seconds),
            service.watch.waits_for,
        )
        if answer != last:
            last, silent = answer, 0.0
            yield f"data: {answer.model_dump_json()}\n\n"
            continue
        silent += watch.LOOK_SECONDS
        if silent >= BEAT_SECONDS:  # so that a proxy keeps it, and a dead one is seen
            silent = 0.0
            yield ": still there\n\n"


# Files -----------------------------------------------------------------------------


async def _made(service: Service, job: Job, kind: str) -> Job:
    """The job, once what is asked for is made; others have it made later.

    Raises HTTPException where there is none, and Refused where it takes long.
    """
    if job.state != jobs.DONE or not job.evidence:
        raise HTTPException(404, "it is not there, or not yet")
    if job.state_of(kind) in ("", WANTED):
        await asyncio.to_thread(service.store.ask, job.id, kind)
        seen: Job | None = job
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MAKING_SECONDS):
                async for now in service.watch.follow(job.id):
                    seen = now.job if now else None
                    if seen is None or seen.state_of(kind) not in ("", WANTED):
                        break
        if seen is None:
            raise HTTPException(404, "the job was deleted meanwhile")
        job = seen
    if job.state_of(kind) in ("", WANTED):
        raise Refused(503, "it is being made; ask again", after=2)
    if job.state_of(kind) == jobs.NONE:
        raise HTTPException(404, f"there is none: {job.made[kind].reason}")
    return job


def _add_files(app: FastAPI, service: Service) -> None:
    async def send(job: Job, kind: str, name: str, ending: str = "") -> FileResponse:
        made = await _made(service, job, kind)
        if kind == ANNOTATED:
            path = service.places.annotated(job.id)
        elif kind == COPY:
            path = service.places.copy(job.id)
        else:
            path = service.places.made(made) / name
        if path is None or not path.is_file():
            raise HTTPException(404, "it was deleted meanwhile")
        ending = path.suffix[1:] if kind == ANNOTATED else ending
        headers = _as_file(job, ending) if ending else {}
        return FileResponse(path, media_type=_KINDS[path.suffix], headers=headers)

    def kind_of(*content: str) -> dict:
        return {200: {"content": {one: {} for one in content}}, **_errors(404)}

    @app.get(
        "/v1/jobs/{id}/evidence",
        response_class=FileResponse,
        responses=kind_of("application/json"),
    )
    async def evidence(job: Found) -> FileResponse:
        """Curves, thumbnails, moments and windows, as the page shows them."""
        return await send(job, EXPLAINED, places.EVIDENCE)

    @app.get(
        "/v1/jobs/{id}/page",
        response_class=FileResponse,
        responses=kind_of("text/html"),
    )
    async def page(job: Found) -> FileResponse:
        """The evidence as one HTML file, to keep."""
        return await send(job, EXPLAINED, places.PAGE, "html")

    @app.get(
        "/v1/jobs/{id}/table",
        response_class=FileResponse,
        responses=kind_of("text/csv"),
    )
    async def table(job: Found) -> FileResponse:
        """A line for each face, as CSV."""
        return await send(job, EXPLAINED, places.TABLE, "csv")

    @app.get(
        "/v1/jobs/{id}/copy",
        response_class=FileResponse,
        responses=kind_of("video/mp4"),
    )
    async def copy(job: Found) -> FileResponse:
        """A small copy that browsers play: not what was scored."""
        return await send(job, COPY, places.COPY)

    @app.get(
        "/v1/jobs/{id}/annotated",
        response_class=FileResponse,
        responses=kind_of("video/mp4", "video/x-matroska"),
    )
    async def annotated(job: Found) -> FileResponse:
        """The video with faces and their scores drawn into it; made when asked for."""
        return await send(job, ANNOTATED, "")


_KINDS = {
    ".json": "application/json",
    ".html": "text/html",
    ".csv": "text/csv",
    ".mp4": "video/mp4",
    ".mkv": "video/x-matroska",
}


def _as_file(job: Job, ending: str) -> dict[str, str]:
    """Has a browser save it, under a name that no header can misread."""
    stem = "".join(
        c if c.isascii() and c.isalnum() else "_" for c in Path(job.name).stem
    )
    return {"content-disposition": f'attachment; filename="{stem}.{ending}"'}
