// Plays samples in the audio thread without a gap, and reports how many have been played.

const REPORT_QUANTA = 4; // of 128 samples: 21 ms at 24 kHz

class Playback extends AudioWorkletProcessor {
  constructor({ processorOptions }) {
    super();
    this.startSamples = processorOptions.startSamples;
    this.queue = [];
    this.offset = 0; // into the queue's first item
    this.report = { played: 0, buffered: 0, gaps: 0, done: false };
    this.playing = false;
    this.ended = false;
    this.quanta = 0;
    this.port.onmessage = ({ data }) => this.receive(data);
  }

  receive({ samples, end, stop }) {
    if (samples && !this.report.done) {
      this.queue.push(samples);
      this.report.buffered += samples.length;
    }
    if (end) this.ended = true;
    if (stop) this.finish();
  }

  finish() {
    this.queue = [];
    this.report.buffered = 0;
    this.report.done = true;
    this.port.postMessage(this.report);
  }

  process(_, [[output]]) {
    const { report } = this;
    if (report.done) return false;
    if (!this.playing) {
      this.playing = report.buffered >= this.startSamples || (this.ended && report.buffered > 0);
    }
    if (this.playing) this.fill(output);
    if (this.ended && report.buffered === 0) this.finish();
    else if ((this.quanta += 1) % REPORT_QUANTA === 0) this.port.postMessage(report);
    return true;
  }

  fill(output) {
    let filled = 0;
    while (filled < output.length && this.queue.length) {
      const [first] = this.queue;
      const part = first.subarray(this.offset, this.offset + output.length - filled);
      output.set(part, filled);
      filled += part.length;
      this.offset += part.length;
      if (this.offset === first.length) {
        this.queue.shift();
        this.offset = 0;
      }
    }
    this.report.played += filled;
    this.report.buffered -= filled;
    if (filled < output.length && !this.ended) {
      this.report.gaps += 1;
      this.playing = false;
    }
  }
}

registerProcessor("playback", Playback);
