"""Vendor JSON to events and back; no I/O."""
