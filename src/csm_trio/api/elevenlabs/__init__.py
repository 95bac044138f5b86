"""ElevenLabs' endpoints over HTTP and WebSocket."""
