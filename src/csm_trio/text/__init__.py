"""Text front end: from text deltas to normalized sentences and pauses."""
