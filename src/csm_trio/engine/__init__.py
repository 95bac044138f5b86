"""The batched engine: scheduler, slots, the device thread and its interface to Trio."""
