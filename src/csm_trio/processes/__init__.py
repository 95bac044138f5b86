"""Several processes: a supervisor, one engine process, and workers that serve clients."""
