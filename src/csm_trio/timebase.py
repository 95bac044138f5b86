"""The time base of CSM and Mimi: sample rate, frame length, frame rate (Mimi: kyutai/mimi)."""

SAMPLE_RATE_HZ = 24_000
FRAME_MS = 80
FRAME_S = FRAME_MS / 1000
FRAME_RATE_HZ = 1000 / FRAME_MS
FRAME_SAMPLES = SAMPLE_RATE_HZ * FRAME_MS // 1000
