"""HTTP and WebSocket endpoints. The only package that imports Quart."""
