"""Alignment: assign times to the characters of a text from the audio it is spoken in."""
