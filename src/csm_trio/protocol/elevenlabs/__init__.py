"""ElevenLabs' messages and bodies, without I/O."""
