// The waveform of what has come, with what has been heard in another colour.

const BIN_S = 0.02;
const BAR_PX = 3;
const PLAYHEAD = 0.6; // of the width: from there on the waveform moves

export class Waveform {
  constructor(canvas) {
    this.canvas = canvas;
    this.clear(24000);
  }

  clear(rateHz) {
    this.binSamples = Math.round(BIN_S * rateHz);
    this.peaks = [];
    this.filled = 0; // samples in the last bin
    this.draw(0);
  }

  add(samples) {
    for (const sample of samples) {
      if (this.filled % this.binSamples === 0) this.peaks.push(0);
      this.filled += 1;
      const last = this.peaks.length - 1;
      this.peaks[last] = Math.max(this.peaks[last], Math.abs(sample));
    }
  }

  draw(heardSamples) {
    const { canvas, peaks } = this;
    const [width, height] = fit(canvas);
    const pen = canvas.getContext("2d");
    const style = getComputedStyle(canvas);
    const colours = ["--heard", "--waiting"].map((name) => style.getPropertyValue(name));
    const heard = heardSamples / this.binSamples;
    const bars = Math.floor(width / BAR_PX);
    const first = Math.max(0, Math.min(Math.floor(heard - PLAYHEAD * bars), peaks.length - bars));
    pen.clearRect(0, 0, width, height);
    for (let bar = 0; bar < bars; bar += 1) {
      const peak = peaks[first + bar] ?? 0;
      const tall = Math.max(1, Math.sqrt(peak) * (height - 4));
      pen.fillStyle = colours[first + bar < heard ? 0 : 1];
      pen.fillRect(bar * BAR_PX, (height - tall) / 2, BAR_PX - 1, tall);
    }
  }
}

/** Give a canvas as many pixels as the screen has for it; return its size in CSS pixels. */
export function fit(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  canvas.getContext("2d").setTransform(scale, 0, 0, scale, 0, 0);
  return [width, height];
}
