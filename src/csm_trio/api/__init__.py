"""The doors: HTTP and WebSocket routes. Quart lives here and nowhere else."""
