"""Serve a model file over HTTP: a small app to start from.

    pip install "posneg-rec[serve]"
    python examples/serve_app.py model.posneg --port 8000 --workers 2

    curl localhost:8000/recommend -H "content-type: application/json" \
        -d '{"history": [2, 72, 52], "feedback": [1, 1, -1], "k": 5}'

Where `model.save("model.posneg")` puts another model in the file's place, each worker takes it over
within a second, and no request notices. docs/serve_app.md says what is promised and what is not.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import sys
import tempfile
import time
import uuid
import warnings
from datetime import datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import uvicorn
from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI, HTTPException, Response
from fastapi.exceptions import RequestValidationError
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)

from posneg_rec import serving
from posneg_rec.answering import ServedRecommender

load = serving.load  # without scikit-learn, so a worker is small and soon there

MAX_BODY = 2**20  # bytes
MAX_HISTORY = 10_000  # events
MAX_ITEMS = 50_000  # of a filter
MAX_K = 1_000
BODY_SECONDS = 10.0  # within which a request must have arrived
WATCH_SECONDS = 0.5  # between two looks at the model file
# A request holds a core while it is answered: more threads of a worker would only share it.
N_THREADS = 2

log = logging.getLogger("uvicorn.error")


# -- Ids, for JSON has numbers and strings alone -------------------------------------------------


def _integer(value):
    number = int(value)
    same = str(number) == value if isinstance(value, str) else number == value
    if not same or abs(number) >= 2**63:
        raise ValueError
    return number


def _float(value):
    if isinstance(value, str) or float(value) != value:
        raise ValueError
    return float(value)


def _string(value):
    if not isinstance(value, str):
        raise ValueError
    return value


READERS = {"integer": _integer, "float": _float, "string": _string, "UUID": uuid.UUID}


class Ids:
    """Turns ids of JSON into those that a model knows, and back."""

    def __init__(self, items):
        kinds = {"i": "integer", "f": "float"}
        is_uuid = isinstance(items[0], uuid.UUID)
        self.kind = kinds.get(items.dtype.kind, "UUID" if is_uuid else "string")
        # Many clients (JavaScript, say) read numbers as floats: larger ones would be others.
        large = self.kind == "integer" and bool((abs(items) > 2**53).any())
        self.as_text = large or is_uuid

    def read(self, ids, name):
        if ids is None:
            return None
        for position, value in enumerate(ids):
            try:
                ids[position] = READERS[self.kind](value)
            except (ValueError, AttributeError, OverflowError):
                raise HTTPException(
                    422,
                    f"{name}: the model knows {self.kind} ids, got {value!r:.50} at position "
                    f"{position}.",
                ) from None
        return ids

    def written(self, items):
        return [str(item) for item in items] if self.as_text else items.tolist()


# -- Metrics -------------------------------------------------------------------------------------


class Metrics:
    """Counts of all workers together, in Prometheus' format, whichever worker is asked."""

    def __init__(self):
        # Imported here, for this reads where the workers' counts are to lie, which main sets.
        import prometheus_client.multiprocess

        self._client = prometheus_client
        self.requests = prometheus_client.Counter(
            "recommend_requests", "Answers of /recommend by status.", ["status"]
        )
        self.seconds = prometheus_client.Histogram(
            "recommend_seconds",
            "Seconds of a /recommend, from its last byte to its answer.",
            buckets=[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0],
        )
        self.loads = prometheus_client.Counter(
            "model_loads", "Model files taken over, or refused.", ["outcome"]
        )

    def written(self):
        registry = self._client.CollectorRegistry()
        self._client.multiprocess.MultiProcessCollector(registry)
        return self._client.generate_latest(registry)


# -- The model, and the next one -----------------------------------------------------------------


class Served(NamedTuple):
    model: ServedRecommender
    ids: Ids
    version: str


def version_of(path):
    """Name what lies at a path: another file is another version."""
    found = os.stat(path)
    return f"{found.st_mtime_ns:x}-{found.st_ino:x}-{found.st_size:x}"


def open_model(path):
    """Open a model file that may be replaced meanwhile, and let it answer once."""
    while True:
        version = version_of(path)
        model = load(path, mmap=True)  # of which all workers share one copy
        if version_of(path) == version:
            # What is made on the first answer is made now.
            model.recommend(model.items_[:1], k=1, exclude_seen=False)
            return Served(model, Ids(model.items_), version)


class Keeper:
    """Holds the model that answers; a new file takes its place by one assignment."""

    def __init__(self, path, metrics):
        self.path, self.metrics = path, metrics
        self.state = open_model(path), None  # what is served; version and reason of what is not
        metrics.loads.labels("ok").inc()

    def look(self):
        """Take a new file over; one that cannot be read leaves the old model in service."""
        (served, refused), version = self.state, None
        try:
            version = version_of(self.path)
            if version == served.version:
                self.state = served, None
            elif refused is None or version != refused[0]:
                self.state = open_model(self.path), None
                self.metrics.loads.labels("ok").inc()
                log.info("Serving another version of %s.", self.path)
        except (OSError, ValueError, MemoryError) as error:
            if refused != (version, str(error)):
                self.metrics.loads.labels("refused").inc()
                log.error("Still serving the version before. %s", error)
            self.state = served, (version, str(error))

    async def watch(self):
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            await asyncio.to_thread(self.look)


# -- What comes in: bounded, and whole before a thread takes it ----------------------------------


class Door:
    """Reads a body up to a limit of size and time, and counts what was answered.

    A client that sends more is told so after its last byte, as long as that is not absurdly far: a
    connection that is closed before would lose the answer.
    """

    def __init__(self, app, metrics):
        self.app, self.metrics = app, metrics

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        counted = scope["path"] == "/recommend"
        start = time.perf_counter()

        async def answer(message):
            if counted and message["type"] == "http.response.start":
                self.metrics.requests.labels(str(message["status"])).inc()
                self.metrics.seconds.observe(time.perf_counter() - start)
            await send(message)

        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._body(scope, receive)
        except TimeoutError:
            return await refusal(408, "The request did not arrive in time.")(scope, receive, answer)
        start = time.perf_counter()
        if isinstance(body, Response):
            return await body(scope, receive, answer)
        unread = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay():
            return unread.pop() if unread else await receive()

        return await self.app(scope, replay, answer)

    async def _body(self, scope, receive):
        too_large = refusal(413, f"A request has at most {MAX_BODY} bytes.")
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if int(length) > 64 * MAX_BODY:
            return too_large
        chunks, size = [], 0
        while size <= 64 * MAX_BODY:
            message = await receive()
            if message["type"] == "http.disconnect":
                return b""
            size += len(message.get("body", b""))
            if size > MAX_BODY:
                chunks.clear()
            else:
                chunks.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(chunks) if size <= MAX_BODY else too_large
        return too_large


def refusal(status, detail):
    # ASCII, as what is refused may hold halves of characters.
    body = json.dumps({"detail": detail}).encode()
    headers = {"connection": "close"} if status in (408, 413) else None
    return Response(body, status, headers, "application/json")


# -- The app -------------------------------------------------------------------------------------


def _iso(value):
    if not isinstance(value, str):
        raise ValueError("a time is a number or a string as of ISO 8601")
    return datetime.fromisoformat(value)


Id = StrictInt | StrictFloat | StrictStr
Number = StrictInt | StrictFloat
Filter = Annotated[list[Id], Field(max_length=MAX_ITEMS)]


class Query(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    history: list[Id] = Field(max_length=MAX_HISTORY, description="Item ids, oldest first.")
    feedback: list[StrictBool | Number] | None = Field(
        None, max_length=MAX_HISTORY, description="Of each event, as in the fit; else all liked."
    )
    times: list[Number] | list[Annotated[datetime, BeforeValidator(_iso)]] | None = Field(
        None, max_length=MAX_HISTORY, description="Of each event, as in the fit, or ISO 8601."
    )
    k: int = Field(10, ge=1, le=MAX_K, strict=True)
    allowed_items: Filter | None = None
    denied_items: Filter | None = None
    pinned_items: Filter | None = None
    exclude_seen: bool | None = Field(None, strict=True)
    dislike_aversion: float | None = Field(None, ge=0, le=1e6, strict=True)


class Answer(BaseModel):
    items: list[int | float | str] = Field(description="Best first; fewer than k if no more are.")
    scores: list[float]
    version: str = Field(description="Of the model file that answered.")


def create_app():
    metrics = Metrics()
    keeper = Keeper(os.environ["POSNEG_REC_MODEL"], metrics)

    @contextlib.asynccontextmanager
    async def lifespan(app):
        current_default_thread_limiter().total_tokens = N_THREADS
        # The client can count: a short answer is no news for the log.
        warnings.filterwarnings("ignore", ".* have fewer than k=", UserWarning)
        watching = asyncio.create_task(keeper.watch())
        yield
        watching.cancel()

    app = FastAPI(title="Recommendations", lifespan=lifespan)
    app.add_middleware(Door, metrics=metrics)

    @app.exception_handler(RequestValidationError)
    async def malformed(request, error):
        # Without what was sent, which may be large, and NaN.
        faults = [{name: one[name] for name in ("loc", "msg")} for one in error.errors()[:10]]
        return refusal(422, faults)

    @app.exception_handler(HTTPException)
    async def refused(request, error):
        return refusal(error.status_code, error.detail)

    @app.post("/recommend")
    def recommend(query: Query) -> Answer:
        (model, ids, version), _ = keeper.state  # once: all of an answer is of one model
        names = "history", "allowed_items", "denied_items", "pinned_items"
        history, allowed, denied, pinned = (ids.read(getattr(query, name), name) for name in names)
        try:
            items, scores = model.recommend(
                history,
                query.k,
                feedback=query.feedback,
                times=query.times,
                allowed_items=allowed,
                denied_items=denied,
                pinned_items=pinned,
                exclude_seen=query.exclude_seen,
                dislike_aversion=query.dislike_aversion,
            )
        except (TypeError, ValueError) as error:
            raise HTTPException(422, str(error)) from None
        return Answer(items=ids.written(items), scores=scores.tolist(), version=version)

    @app.get("/health")
    async def health():
        served, refused = keeper.state
        return {
            "status": "ok",
            "version": served.version,
            "n_items": len(served.model.items_),
            "ids": served.ids.kind,
            "refused": refused is not None,  # the log says why
        }

    @app.get("/metrics")
    def counts():
        return Response(metrics.written(), media_type="text/plain; version=0.0.4")

    return app


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a file that model.save wrote")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    open_model(args.model)  # a file that cannot be served is told here, once
    os.environ["POSNEG_REC_MODEL"] = str(args.model.resolve())
    uvicorn.run(
        "serve_app:create_app",
        factory=True,
        app_dir=str(Path(__file__).parent),
        host=args.host,
        port=args.port,
        workers=args.workers,
        access_log=False,
        timeout_worker_healthcheck=60,  # a busy machine is no reason to kill workers
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        sys.exit(main())
