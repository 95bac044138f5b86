"""A self-hosted text-to-speech server: CSM-1B, batched, behind ElevenLabs' protocol."""
