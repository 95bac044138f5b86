// A WAV file of samples: RIFF, 16-bit mono.

const HEADER_BYTES = 44;

/** Return the bytes of a WAV file. `samples` are from -1 to 1. */
export function wavFile(samples, rateHz) {
  const view = new DataView(new ArrayBuffer(HEADER_BYTES + 2 * samples.length));
  writeText(view, 0, "RIFF");
  view.setUint32(4, view.byteLength - 8, true);
  writeText(view, 8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true);
  view.setUint32(24, rateHz, true);
  view.setUint32(28, 2 * rateHz, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  writeText(view, 36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((sample, index) => {
    view.setInt16(HEADER_BYTES + 2 * index, Math.round(clamp(sample) * 32768), true);
  });
  return new Uint8Array(view.buffer);
}

function clamp(sample) {
  return Math.max(-1, Math.min(32767 / 32768, sample));
}

function writeText(view, at, text) {
  for (let index = 0; index < text.length; index += 1) {
    view.setUint8(at + index, text.charCodeAt(index));
  }
}
