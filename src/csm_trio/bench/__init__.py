"""`csm-trio bench`: load tests of a server with real-time phone calls, and of the engine alone."""
