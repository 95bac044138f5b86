"""Text normalization: from written text to spoken words."""
