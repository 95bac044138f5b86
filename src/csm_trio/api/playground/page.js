// The page: its form, one speech at a time, and what is shown of it.

import { openPlayer } from "./player.js";
import { playbackFormat, sampleRateOf } from "./formats.js";
import { KeyRefused, Server } from "./server.js";
import { ServerTab } from "./server_tab.js";
import { requestBody, snippets } from "./snippets.js";
import { Speech } from "./speech.js";
import { makeTabs } from "./tabs.js";
import { Transcript } from "./transcript.js";
import { wavFile } from "./wav.js";
import { Waveform } from "./waveform.js";

const DEFAULT_MP3 = "mp3_44100_128";
const at = (id) => document.getElementById(id);
const number = (id) => (at(id).value === "" ? null : Number(at(id).value));

const server = new Server();
const serverTab = new ServerTab(server, at("server-panel"));
const waveform = new Waveform(at("waveform"));
const transcript = new Transcript(at("transcript"));

/** The speech that is heard, or was last; null before the first. */
export let speech = null;
let plays = 0;

function readRequest() {
  return {
    text: at("text").value,
    voice: at("voice").value,
    format: at("format").value,
    speed: Number(at("speed").value),
    stability: Number(at("stability").value),
    temperature: number("temperature"),
    topK: number("top-k"),
    // Drawn here rather than by the server, so that the same can be asked for again.
    seed: number("seed") ?? crypto.getRandomValues(new Uint32Array(1))[0],
    wordsPerS: at("speech-form").sending.value === "words" ? number("words-per-s") : null,
  };
}

function drawWaveform() {
  waveform.draw(speech ? speech.player.heard : 0);
}

function show(id, text) {
  if (at(id).textContent !== text) at(id).textContent = text;
}

function enable(id, on) {
  at(id).setAttribute("aria-disabled", String(!on));
}

function showError(error) {
  if (error instanceof KeyRefused) askForKey(error.message);
  else show("error", error.message);
}

async function play() {
  interrupt();
  const request = readRequest();
  if (request.text.trim() === "") return;
  show("error", "");
  const turn = (plays += 1);
  try {
    // Before any await: browsers let sound begin only within a click or key press.
    const player = await openPlayer(sampleRateOf(playbackFormat(request.format)));
    if (turn !== plays) return player.stop(); // Play was pressed again
    await speak(new Speech(server, player, request));
  } catch (error) {
    if (turn === plays) show("status", "");
    showError(error);
  }
}

async function speak(current) {
  speech = current;
  begin(current);
  try {
    await current.start();
    await current.finished;
    await current.player.finished;
    if (!current.times.interrupted) show("status", "Played to its end.");
  } finally {
    current.close();
    if (speech === current) end(current);
  }
}

function begin(current) {
  waveform.clear(current.rateHz);
  transcript.clear();
  current.onAudio = (samples) => waveform.add(samples);
  current.onChange = () => showSnippets(current);
  show("status", "Speaking.");
  show("seed-used", String(current.request.seed));
  at("interruption").hidden = true;
  enable("interrupt", true);
  for (const id of ["wav", "mp3"]) enable(id, false);
  requestAnimationFrame(() => draw(current));
}

function end(current) {
  enable("interrupt", false);
  for (const id of ["wav", "mp3"]) enable(id, current.received > 0);
  showFigures(current);
  transcript.settle();
  if (current.times.interrupted) showInterruption(current);
}

function draw(current) {
  if (speech !== current) return;
  showFigures(current);
  if (!current.player.report.done) requestAnimationFrame(() => draw(current));
}

function showFigures(current) {
  const { report } = current.player;
  transcript.show(current.words, current.heardMs);
  drawWaveform();
  if (current.ttfaMs !== null) show("ttfa", `${current.ttfaMs.toFixed(0)} ms`);
  if (current.realTimeFactor !== null) show("rtf", current.realTimeFactor.toFixed(2));
  show("buffer", `${(report.buffered / current.rateHz).toFixed(2)} s`);
  show("gaps", String(report.gaps));
  show("audio", `${current.audioS.toFixed(2)} s`);
}

function interrupt() {
  if (speech === null || speech.player.report.done) return;
  speech.interrupt();
  show("status", "Interrupted.");
  enable("interrupt", false);
}

function showInterruption(current) {
  const { heardMs, slotFreeMs } = current;
  show("heard-text", current.words.textUntil(heardMs));
  show("heard-time", `(${(heardMs / 1000).toFixed(2)} of ${current.audioS.toFixed(2)} s received)`);
  show(
    "slot-free",
    slotFreeMs === null
      ? "The slot was free already: everything had been generated."
      : `The slot was free ${slotFreeMs.toFixed(0)} ms later.`,
  );
  at("interruption").hidden = false;
}

function showSnippets(current) {
  const texts = snippets(server.root, current.request, server.hasKey);
  for (const [language, text] of Object.entries(texts)) show(`${language}-panel`, text);
  at("code").hidden = false;
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

function downloadWav() {
  save(new Blob([wavFile(speech.samples, speech.rateHz)], { type: "audio/wav" }), "speech.wav");
}

async function downloadMp3() {
  const { request } = speech;
  const format = request.format.startsWith("mp3_") ? request.format : DEFAULT_MP3;
  show("status", "Generating the MP3 with the same seed.");
  try {
    save(await server.speech(request.voice, format, requestBody(request)), "speech.mp3");
    show("status", "The MP3 is ready.");
  } catch (error) {
    show("status", "");
    showError(error);
  }
}

async function copy() {
  const panel = document.querySelector("#code pre:not([hidden])");
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(panel.textContent);
  } else {
    // Over plain http, browsers have a clipboard at localhost only.
    getSelection().selectAllChildren(panel);
    document.execCommand("copy");
  }
  show("status", "Copied.");
}

function askForKey(message) {
  show("key-error", server.hasKey ? message : "");
  server.useKey("");
  at("key-form").hidden = false;
  at("key").focus();
}

function optionOf({ voice_id: id, name }, chosen) {
  return new Option(name === id ? id : `${name} (${id})`, id, false, id === chosen);
}

async function loadVoices() {
  try {
    const voices = await server.voices();
    const { value } = at("voice");
    at("voice").replaceChildren(...voices.map((voice) => optionOf(voice, value)));
    at("key-form").hidden = true;
    at("key").value = "";
  } catch (error) {
    showError(error);
  }
}

function showFormat() {
  const { value } = at("format");
  const heard = playbackFormat(value);
  const uses = value.startsWith("mp3_") ? "The code and the MP3 download use" : "The code uses";
  const exactly = `Heard as ${heard}, exactly as it is sent.`;
  show("format-note", heard === value ? exactly : `Heard as ${heard}. ${uses} ${value}.`);
}

function whenEnabled(id, act) {
  at(id).addEventListener("click", () => {
    if (at(id).getAttribute("aria-disabled") !== "true") act();
  });
}

function wire() {
  makeTabs(document.querySelector("header [role=tablist]"), (panel) => {
    serverTab.show(panel === "server-panel");
  });
  makeTabs(document.querySelector("#code [role=tablist]"), () => {});
  at("speech-form").addEventListener("submit", (event) => {
    event.preventDefault();
    play();
  });
  at("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    server.useKey(at("key").value.trim());
    loadVoices();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") interrupt();
    if (event.key === "Enter" && event.ctrlKey) at("speech-form").requestSubmit();
  });
  new ResizeObserver(drawWaveform).observe(at("waveform"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawWaveform);
  // The server may have been given other voices meanwhile.
  window.addEventListener("focus", () => {
    if (at("key-form").hidden) loadVoices();
  });
  for (const id of ["speed", "stability"]) {
    at(id).addEventListener("input", () => show(`${id}-value`, Number(at(id).value).toFixed(2)));
  }
  at("format").addEventListener("change", showFormat);
  whenEnabled("interrupt", interrupt);
  whenEnabled("wav", downloadWav);
  whenEnabled("mp3", downloadMp3);
  at("copy").addEventListener("click", copy);
}

wire();
showFormat();
loadVoices();
