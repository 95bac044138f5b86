"""Whether traces are asked for, and where they go; imports OpenTelemetry only if they are.

The variables are OpenTelemetry's own (its specification, "OTLP exporter configuration").
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from csm_trio.config import Config, EngineConfig
from csm_trio.errors import StartupError
from csm_trio.telemetry import ContextTracer, Metrics

_TRACES_PATH = "v1/traces"


def traces_url(endpoint: str | None, environ: Mapping[str, str]) -> str | None:
    """Return the URL that spans are posted to; None where no traces are asked for.

    `endpoint` is that of `--otlp-endpoint`, which goes before the environment. Raises StartupError
    for what cannot be a collector of OTLP over HTTP.
    """
    base = endpoint or environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
    url = f"{base.rstrip('/')}/{_TRACES_PATH}" if base else ""
    if endpoint is None:
        url = environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip() or url
    off = (
        environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
        or environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"
    )
    if not url or off:
        return None
    _check(url, environ)
    return url


def _check(url: str, environ: Mapping[str, str]) -> None:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise StartupError("The endpoint for traces is not a URL http://HOST[:PORT][/PATH].")
    protocol = (
        environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    )
    if protocol != "http/protobuf":
        raise StartupError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}, but traces are sent as http/protobuf."
        )


@contextlib.contextmanager
def open_tracer(
    config: Config, metrics: Metrics, *, worker: str = ""
) -> Iterator[ContextTracer | None]:
    """Export the contexts that the tracer is given; yield None where no traces are asked for.

    `worker` names this process where a server has several. At exit the spans that wait are sent,
    within a second. Raises StartupError where OpenTelemetry is not installed, or its variables
    are wrong.
    """
    url = traces_url(config.otlp_endpoint, os.environ)
    if url is None:
        yield None
        return
    try:
        from csm_trio.tracing.spans import SpanExport
    except ImportError:
        raise StartupError(
            "Traces are asked for, but OpenTelemetry is not installed: "
            "pip install 'csm-trio[otel]'."
        ) from None
    try:
        export = SpanExport(url, metrics, model=_model_name(config.engine), worker=worker)
    except ValueError as error:
        raise StartupError(f"A variable of OpenTelemetry is wrong: {error}.") from None
    try:
        yield export.tracer
    finally:
        export.close()


def check_tracer(config: Config) -> None:
    """Raise StartupError where traces are asked for and cannot be sent."""
    with open_tracer(config, Metrics()):
        pass


def _model_name(config: EngineConfig) -> str:
    if config.weights_path is not None:
        return config.weights_path.name
    return config.model_id or config.random_weights or "embedded"
