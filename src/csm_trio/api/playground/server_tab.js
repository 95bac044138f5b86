// The tab of the server: gauges and histories of /metrics, read while the tab is on screen.

import { parseMetrics, quantile, since } from "./metrics.js";
import { fit } from "./waveform.js";

const READ_MS = 2000;
const KEPT = 150; // points: five minutes
const QUANTILES = [0.5, 0.95];
const CHARTS = { ttfa: "csm_ttfa_seconds", step: "csm_step_seconds" };
const GAUGES = {
  slots: ["csm_slots_used", "csm_slots"],
  sessions: ["csm_sessions", "csm_sessions_limit"],
};

export class ServerTab {
  constructor(server, element) {
    this.server = server;
    this.element = element;
    this.histories = { ttfa: [], step: [] };
    this.shown = false;
    document.addEventListener("visibilitychange", () => this.#schedule());
  }

  /** Begin or end to read: a server must not be asked for what is not seen. */
  show(shown) {
    this.shown = shown;
    this.#schedule();
  }

  #schedule() {
    clearTimeout(this.timer);
    if (this.shown && !document.hidden) this.#read();
  }

  async #read() {
    try {
      this.#update(parseMetrics(await this.server.metrics()));
      this.#text("server-error", "");
    } catch (error) {
      this.#text("server-error", `The metrics cannot be read: ${error.message}`);
    }
    clearTimeout(this.timer);
    if (this.shown) this.timer = setTimeout(() => this.#schedule(), READ_MS);
  }

  #update({ values, histograms }) {
    for (const [id, [used, limit]] of Object.entries(GAUGES)) {
      const meter = this.element.querySelector(`#${id}`);
      meter.max = values[limit] || 1;
      meter.value = values[used] ?? 0;
      this.#text(`${id}-text`, `${values[used] ?? 0} of ${values[limit] ?? 0}`);
    }
    this.#text("waiting", String(values.csm_utterances_waiting ?? 0));
    this.#text("frames", (values.csm_frames_total ?? 0).toLocaleString("en"));
    for (const [id, name] of Object.entries(CHARTS)) this.#addPoint(id, histograms[name] ?? []);
    this.before = histograms;
  }

  #addPoint(id, buckets) {
    const before = this.before?.[CHARTS[id]];
    const recent = QUANTILES.map((q) => quantile(since(buckets, before), q));
    const history = this.histories[id];
    history.push(recent);
    if (history.length > KEPT) history.shift();
    const last = history.findLast(([median]) => median !== null);
    const text = last ? last.map((s) => `${(1000 * s).toFixed(0)} ms`).join(" / ") : "none yet";
    this.#text(`${id}-text`, text);
    drawChart(this.element.querySelector(`#${id}-chart`), history);
  }

  #text(id, text) {
    this.element.querySelector(`#${id}`).textContent = text;
  }
}

function drawChart(canvas, history) {
  const [width, height] = fit(canvas);
  const pen = canvas.getContext("2d");
  const style = getComputedStyle(canvas);
  const top = Math.max(0.001, ...history.flat().filter((value) => value !== null));
  pen.clearRect(0, 0, width, height);
  ["--heard", "--waiting"].forEach((name, line) => {
    pen.fillStyle = style.getPropertyValue(name);
    history.forEach((point, index) => {
      if (point[line] === null) return;
      const x = width - ((history.length - index) * width) / KEPT;
      const tall = (point[line] / top) * (height - 4);
      pen.fillRect(x, height - tall - 2, Math.max(2, width / KEPT - 1), line ? 3 : tall + 2);
    });
  });
  pen.fillStyle = style.color;
  pen.font = "12px system-ui, sans-serif";
  pen.fillText(`${(1000 * top).toFixed(0)} ms`, 4, 13);
}
