"""Traces: one OpenTelemetry span a context, made when the context has ended."""
