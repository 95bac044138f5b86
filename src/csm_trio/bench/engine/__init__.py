"""`csm-trio bench --engine`: time the engine alone."""
