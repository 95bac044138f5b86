"""Voices that are added while the server runs: their directory, their clips, and who holds them."""
