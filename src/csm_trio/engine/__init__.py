"""The batched engine: scheduler, slots, the device thread and its door to trio."""
