// Plays samples while they arrive. Both players have `push`, `end`, `stop`, `report` and `finished`.

const START_S = 0.2; // of audio, before playback begins or goes on after a gap
const REPORT_MS = 30;

/** Open a player of one stream of samples. Must be called within a click or key press. */
export async function openPlayer(rateHz) {
  const context = new AudioContext({ sampleRate: rateHz });
  context.resume();
  // Over plain http, browsers have worklets at localhost only (W3C Secure Contexts).
  if (!context.audioWorklet) return new ScheduledPlayer(context);
  await context.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
  return new WorkletPlayer(context);
}

class Player {
  constructor(context) {
    this.context = context;
    this.report = { played: 0, buffered: 0, gaps: 0, done: false };
    this.onReport = () => {};
    this.finished = new Promise((resolve) => (this.resolveFinished = resolve));
  }

  /** Samples that have been played, the output latency deducted. */
  get heard() {
    const late = (this.context.outputLatency || 0) * this.context.sampleRate;
    return this.report.done && this.complete
      ? this.report.played
      : Math.max(0, this.report.played - late);
  }

  receive(report) {
    if (this.report.done) return;
    this.report = report;
    this.onReport();
    if (report.done) {
      this.resolveFinished();
      // Later, so that the last samples are not cut off in the output's own buffer.
      setTimeout(() => this.context.close(), 1000);
    }
  }
}

class WorkletPlayer extends Player {
  constructor(context) {
    super(context);
    this.node = new AudioWorkletNode(context, "playback", {
      numberOfInputs: 0,
      outputChannelCount: [1],
      processorOptions: { startSamples: Math.round(START_S * context.sampleRate) },
    });
    this.node.port.onmessage = ({ data }) => this.receive(data);
    this.node.connect(context.destination);
  }

  push(samples) {
    this.node.port.postMessage({ samples });
  }

  end() {
    this.complete = true;
    this.node.port.postMessage({ end: true });
  }

  stop() {
    this.complete = false;
    this.node.disconnect();
    this.node.port.postMessage({ stop: true });
  }
}

/** For pages without worklets: one buffer source after the other, by the context's clock. */
class ScheduledPlayer extends Player {
  constructor(context) {
    super(context);
    this.node = context.createGain();
    this.node.connect(context.destination);
    this.segments = []; // {at, from, length}: when each begins, and its place among all samples
    this.nextAt = 0;
    this.pushed = 0;
    this.gaps = 0;
    this.timer = setInterval(() => this.receive(this.measure()), REPORT_MS);
  }

  push(samples) {
    const { context } = this;
    if (this.stopped || samples.length === 0) return;
    if (this.nextAt < context.currentTime) {
      this.gaps += this.pushed > 0 ? 1 : 0;
      this.nextAt = context.currentTime + START_S;
    }
    const buffer = context.createBuffer(1, samples.length, context.sampleRate);
    buffer.copyToChannel(samples, 0);
    const source = new AudioBufferSourceNode(context, { buffer });
    source.connect(this.node);
    source.start(this.nextAt);
    this.segments.push({ at: this.nextAt, from: this.pushed, length: samples.length });
    this.nextAt += samples.length / context.sampleRate;
    this.pushed += samples.length;
  }

  measure() {
    const { context, pushed, gaps } = this;
    const now = context.currentTime;
    while (this.segments.length > 1 && this.segments[1].at <= now) this.segments.shift();
    const [current] = this.segments;
    const into = current ? (now - current.at) * context.sampleRate : 0;
    const played = current
      ? Math.round(current.from + Math.max(0, Math.min(current.length, into)))
      : 0;
    const done = Boolean(this.stopped || (this.complete && played === pushed));
    if (done) clearInterval(this.timer);
    return { played, buffered: this.stopped ? 0 : pushed - played, gaps, done };
  }

  end() {
    this.complete = true;
  }

  stop() {
    this.complete = false;
    this.node.disconnect();
    this.stopped = true;
    this.receive(this.measure());
  }
}
