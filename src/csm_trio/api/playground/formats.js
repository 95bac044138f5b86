// Audio formats: which of them can be heard as they come, and how their bytes become samples.

const G711_RATE_HZ = 8000;
const MODEL_FORMAT = "pcm_24000";

/** Return the format to hear where `name` is wanted: itself where the page can decode it. */
export function playbackFormat(name) {
  if (/^(pcm_|ulaw_|alaw_)/.test(name)) return name;
  return name.startsWith("wav_") ? name.replace("wav_", "pcm_") : MODEL_FORMAT;
}

/** Return the sample rate of a playback format in Hz. */
export function sampleRateOf(name) {
  return name.startsWith("pcm_") ? Number(name.slice(4)) : G711_RATE_HZ;
}

/** Return the extension of a file in a format. */
export function extensionOf(name) {
  return name.split("_")[0];
}

/** Return the bytes of a base64 text. */
export function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (char) => char.charCodeAt(0));
}

/** Return bytes of a playback format as samples from -1 to 1. */
export function samplesOf(name, bytes) {
  if (name.startsWith("ulaw_")) return Float32Array.from(bytes, (byte) => ulaw(byte) / 32768);
  if (name.startsWith("alaw_")) return Float32Array.from(bytes, (byte) => alaw(byte) / 32768);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Float32Array.from(
    { length: bytes.byteLength >> 1 },
    (_, index) => view.getInt16(2 * index, true) / 32768,
  );
}

// ITU-T G.711, table 2a and 2b.
function ulaw(byte) {
  const code = ~byte & 0xff;
  const magnitude = ((((code & 0x0f) << 3) + 0x84) << ((code & 0x70) >> 4)) - 0x84;
  return code & 0x80 ? -magnitude : magnitude;
}

// ITU-T G.711, table 1a and 1b.
function alaw(byte) {
  const code = byte ^ 0x55;
  const segment = (code & 0x70) >> 4;
  const step = ((code & 0x0f) << 4) + 8;
  const magnitude = segment === 0 ? step : (step + 0x100) << (segment - 1);
  return code & 0x80 ? magnitude : -magnitude;
}
