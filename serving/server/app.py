"""The HTTP interface: which path does what."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Query, Request, Response, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse

from mmx.serving.server import openapi
from mmx.serving.server.access import AccessLog, HostCheck
from mmx.serving.server.answering import Answering, reject
from mmx.serving.server.live import PATH, LiveConnection
from mmx.serving.server.rejection import Rejection
from mmx.serving.server.schemas import Capacity, ModelInfo, Status
from mmx.serving.server.service import Service
from mmx.view.model import describe_model

PAGE = Path(str(files("mmx.view"))) / "page"  # index.html and what it needs, served at /
ALLOWED_HEADERS = ("accept", "authorization", "content-type")


def make_app(service: Service) -> FastAPI:
    """The application around a service. Opening and closing the service is the caller's."""
    app = FastAPI(title="mmx", version=version("mmx"), docs_url=None, redoc_url=None)
    if service.settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=service.settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=ALLOWED_HEADERS,
            expose_headers=["retry-after"],
        )
    _add_errors(app)
    _add_model(app, service)
    _add_live(app, service)
    _add_health(app, service)
    for file in sorted(PAGE.iterdir()):
        _add_file(app, "/" if file.name == "index.html" else f"/{file.name}", file)
    _add_example(app)

    app.add_middleware(
        HostCheck, names=(service.settings.host, *service.settings.allowed_hosts), origins=service.settings.cors_origins
    )
    app.add_middleware(AccessLog, paths=[getattr(route, "path", "") for route in app.routes])

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            plain = get_openapi(title=app.title, version=app.version, routes=app.routes)
            app.openapi_schema = openapi.complete(plain, with_key=service.settings.api_key is not None)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]
    return app


def _add_model(app: FastAPI, service: Service) -> None:
    longest = service.settings.limits.deadline_s

    @app.post(
        "/v1/predict",
        summary="Predict the emotions in a video, or in one sample of tensors",
        response_class=Response,
        responses=openapi.rejections(*openapi.REJECTIONS),
        openapi_extra=openapi.predict_operation(),
    )
    async def predict(
        deadline: float = Query(
            longest, gt=0, le=longest, allow_inf_nan=False, description="Seconds from the upload to the whole answer."
        ),
    ) -> Response:
        return Answering(service, deadline)

    @app.head("/v1/model", include_in_schema=False)
    @app.get("/v1/model", summary="The model and its limits", responses=openapi.rejections(401, 403))
    async def model(request: Request) -> ModelInfo:
        service.check_key(request.headers.get("authorization", ""))
        return model_info(service)


def _add_live(app: FastAPI, service: Service) -> None:
    @app.websocket(PATH)
    async def live(socket: WebSocket) -> None:
        await LiveConnection(service, socket).run()


def _add_health(app: FastAPI, service: Service) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", summary="Whether the process is alive", responses=openapi.rejections(500))
    async def healthz() -> Status:
        if not service.engine.batcher.alive:
            raise Rejection(500, "server_error", "the network's loop has ended", "restart the server")
        return Status(status="ok")

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", summary="Whether requests are accepted now", responses=openapi.rejections(503))
    async def readyz() -> Status:
        service.check_ready()
        return Status(status="ready")

    @app.head("/metrics", include_in_schema=False)
    @app.get(
        "/metrics",
        summary="Queues, stage times, batch sizes and outcomes, for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **openapi.rejections(401, 403)},
    )
    async def metrics(request: Request) -> Response:
        service.check_key(request.headers.get("authorization", ""))
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE_LATEST})


def _add_file(app: FastAPI, path: str, file: Path) -> None:
    """A file of the page at a path of its own. (A folder mounted at / would answer for all of /v1, too.)"""

    async def send(_: Request) -> Response:
        return FileResponse(file, headers={"cache-control": "no-cache"})

    app.add_route(path, send, methods=["GET", "HEAD"], include_in_schema=False)


def _add_example(app: FastAPI) -> None:
    """The page's example, made when it is first asked for."""
    making = asyncio.Lock()
    made: list[bytes | str] = []

    def add(path: str, kind: str, part: int) -> None:
        async def send(_: Request) -> Response:
            async with making:
                if not made:
                    made.extend(await asyncio.to_thread(_example))
            return Response(made[part], headers={"content-type": kind})

        app.add_route(path, send, methods=["GET"], include_in_schema=False)

    add("/example.mp4", "video/mp4", 0)
    add("/example.vtt", "text/vtt; charset=utf-8", 1)


def _example() -> tuple[bytes, str]:
    from mmx.training.synthetic.example import example  # half a second to import, and most servers never need it

    return example()


def _add_errors(app: FastAPI) -> None:
    """Every error has the same body."""

    @app.exception_handler(Rejection)
    async def rejected(_: Request, error: Rejection) -> Response:
        return reject(error)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> Response:
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        response = reject(Rejection(error.status_code, code, str(error.detail), "see /openapi.json"))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return reject(Rejection(400, "bad_request", f"{first['loc'][-1]}: {first['msg']}", "see /openapi.json"))


def model_info(service: Service) -> ModelInfo:
    """What ``GET /v1/model`` says."""
    manifest, backend, limits = service.engine.bundle.manifest, service.engine.backend, service.settings.limits
    made_with = manifest.provenance.get("versions", {})
    tensors = service.tensor_limits
    return ModelInfo(
        **describe_model(manifest, service.engine.bundle.calibration),
        calibrated=bool(service.engine.bundle.calibration),
        system=manifest.system,
        form=manifest.form,
        dataset=manifest.dataset,
        fusion_weights=manifest.fusion_weights,
        preprocessing=asdict(manifest.preprocessing),
        backend={"name": backend.name, "precision": backend.precision, "device": backend.device, "why": backend.why},
        versions={"mmx": version("mmx"), **{f"made_with_{name}": str(number) for name, number in made_with.items()}},
        graph_sha256=manifest.files[manifest.graphs["fp32"].file],
        recogniser=service.engine.recogniser,
        limits=Capacity(
            upload_bytes=limits.upload_bytes,
            media_s=limits.media_s,
            media_pixels=limits.media_pixels,
            deadline_s=limits.deadline_s,
            tokens=tensors.tokens,
            faces=tensors.faces,
            pieces=tensors.pieces,
        ),
    )
