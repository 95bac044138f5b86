"""Strings in, strings out: from text as it arrives to sentences that can be spoken."""
