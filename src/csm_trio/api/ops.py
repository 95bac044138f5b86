"""Endpoints for operators: liveness, readiness, metrics. They need no key."""

from quart import Blueprint, Response

from csm_trio.api.state import ServerState
from csm_trio.telemetry import METRICS_CONTENT_TYPE

OPS_PATHS = frozenset({"/healthz", "/health", "/readyz", "/metrics"})


def ops_blueprint(state: ServerState) -> Blueprint:
    """Return `/healthz` (also `/health`), `/readyz` and `/metrics`."""
    blueprint = Blueprint("ops", __name__)

    @blueprint.get("/healthz")
    @blueprint.get("/health")
    async def healthz() -> tuple[dict[str, str], int]:
        """Liveness: whether the step loop answers in time."""
        if await state.engine.responds():
            return {"status": "ok"}, 200
        return {"status": "the step loop does not answer"}, 503

    @blueprint.get("/readyz")
    async def readyz() -> tuple[dict[str, str], int]:
        """Readiness: whether new sessions are admitted; the port opens only after warm-up."""
        if state.admission.draining:
            return {"status": "draining"}, 503
        return {"status": "ready"}, 200

    @blueprint.get("/metrics")
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(await state.shared.render_metrics(), content_type=METRICS_CONTENT_TYPE)

    return blueprint
