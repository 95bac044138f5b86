"""The network itself: torch modules, checkpoints, prompts; no policy, no trio."""
