"""For whoever runs the server: alive, ready, figures. No key is asked here."""

from quart import Blueprint, Response

from csm_trio.api.state import ServerState
from csm_trio.telemetry import METRICS_CONTENT_TYPE


def ops_blueprint(state: ServerState) -> Blueprint:
    """Return `/healthz` (also `/health`), `/readyz` and `/metrics`."""
    blueprint = Blueprint("ops", __name__)

    @blueprint.get("/healthz")
    @blueprint.get("/health")
    async def healthz() -> tuple[dict[str, str], int]:
        """Say whether the process lives and the step loop beats."""
        if await state.engine.responds():
            return {"status": "ok"}, 200
        return {"status": "the step loop does not answer"}, 503

    @blueprint.get("/readyz")
    async def readyz() -> tuple[dict[str, str], int]:
        """Say whether new calls are welcome; the port opens only when the engine is warm."""
        if state.admission.draining:
            return {"status": "draining"}, 503
        return {"status": "ready"}, 200

    @blueprint.get("/metrics")
    async def metrics() -> Response:
        """Show Prometheus' text format."""
        return Response(state.metrics.render(), content_type=METRICS_CONTENT_TYPE)

    return blueprint
