// One text spoken over `multi-stream-input`: what was sent, what came back, and when.

import { bytesOf, playbackFormat, sampleRateOf, samplesOf } from "./formats.js";
import { WordTimes } from "./words.js";

const CONTEXT = "playground";
const NORMAL_CLOSE = 1000;

export class Speech {
  /** `request`: text, voice, format, speed, stability, temperature, topK, seed, wordsPerS or null. */
  constructor(server, player, request) {
    this.server = server;
    this.player = player;
    this.request = request;
    this.format = playbackFormat(request.format);
    this.rateHz = sampleRateOf(this.format);
    this.words = new WordTimes();
    this.chunks = [];
    this.received = 0; // samples
    this.times = {}; // ms of performance.now(): sent, firstAudio, lastAudio, interrupted, final
    this.onChange = () => {};
    this.finished = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    this.finished.catch(() => {}); // the caller may not wait for it yet
  }

  /** Open the socket and send the text; `finished` tells when all audio has come. */
  async start() {
    const { request } = this;
    const query = { output_format: this.format, sync_alignment: true, seed: request.seed };
    if (request.temperature !== null) query.temperature = request.temperature;
    if (request.topK !== null) query.top_k = request.topK;
    this.socket = await this.server.openSocket(request.voice, query);
    this.socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    this.socket.onclose = ({ code, reason }) => this.#closed(code, reason);
    if (this.times.interrupted) return this.#finish();
    this.#send({
      text: " ",
      voice_settings: { speed: request.speed, stability: request.stability },
    });
    this.times.sent = performance.now();
    if (request.wordsPerS === null) {
      this.#sendText(request.text);
      this.#endText();
    } else {
      this.#sendWords([...request.text.matchAll(/\s*\S+\s*$|\s*\S+/gu)].map(String));
    }
  }

  /** Stop playback and generation; `finished` tells when the slot is free. */
  interrupt() {
    if (this.times.interrupted) return;
    this.times.interrupted = performance.now();
    clearTimeout(this.timer);
    this.player.stop();
    // After a flush a second close is the interruption; without one, the first is.
    if (this.socket && !this.times.final) this.#send({ close_context: true });
  }

  /** End playback and the session, whatever is under way. */
  close() {
    clearTimeout(this.timer);
    if (!this.player.report.done) this.player.stop();
    this.socket?.close(NORMAL_CLOSE);
  }

  /** Seconds of audio received. */
  get audioS() {
    return this.received / this.rateHz;
  }

  /** ms of audio that have been heard. */
  get heardMs() {
    return (1000 * this.player.heard) / this.rateHz;
  }

  /** ms from the first text sent to the first audio received; null before. */
  get ttfaMs() {
    const { sent, firstAudio } = this.times;
    return firstAudio ? firstAudio - sent : null;
  }

  /** Seconds from the first text sent to the last audio received, for each second of audio. */
  get realTimeFactor() {
    const { sent, lastAudio } = this.times;
    return this.received ? (lastAudio - sent) / 1000 / this.audioS : null;
  }

  /** ms from the interruption until the slot was free; null where there was none to free. */
  get slotFreeMs() {
    const { interrupted, final } = this.times;
    return interrupted && final > interrupted ? final - interrupted : null;
  }

  /** All samples received. */
  get samples() {
    const all = new Float32Array(this.received);
    let at = 0;
    for (const chunk of this.chunks) {
      all.set(chunk, at);
      at += chunk.length;
    }
    return all;
  }

  #send(message) {
    if (this.socket.readyState !== WebSocket.OPEN) return;
    this.socket.send(JSON.stringify({ context_id: CONTEXT, ...message }));
  }

  #sendText(text) {
    this.words.addText(text);
    this.#send({ text });
    this.onChange();
  }

  #sendWords([first, ...rest]) {
    if (first !== undefined) this.#sendText(first);
    if (rest.length === 0) return this.#endText();
    this.timer = setTimeout(() => this.#sendWords(rest), 1000 / this.request.wordsPerS);
  }

  #endText() {
    this.#send({ flush: true });
    this.#send({ close_context: true });
  }

  #receive(message) {
    if (message.error) {
      this.reject(new Error(message.message));
      return;
    }
    if (message.audio && !this.times.interrupted) this.#addAudio(message.audio);
    if (message.alignment) this.words.addAlignment(message.alignment);
    if (message.isFinal) this.#finish();
    this.onChange();
  }

  #addAudio(base64) {
    const samples = samplesOf(this.format, bytesOf(base64));
    this.times.lastAudio = performance.now();
    this.times.firstAudio ??= this.times.lastAudio;
    this.chunks.push(samples);
    this.received += samples.length;
    this.player.push(samples);
    this.onAudio?.(samples);
  }

  #finish() {
    this.times.final = performance.now();
    if (!this.times.interrupted) this.player.end();
    this.socket.close(NORMAL_CLOSE);
    this.resolve();
  }

  #closed(code, reason) {
    if (this.times.final) return;
    this.reject(new Error(reason || `The session ended early (${code}).`));
  }
}
