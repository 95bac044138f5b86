// The server's public API as the page uses it. The key stays in this object, in memory alone.

const ROOT = new URL("../..", import.meta.url); // of /playground/<version>/server.js

/** The server wants a key, or another one. */
export class KeyRefused extends Error {}

export class Server {
  #key = "";

  get root() {
    return ROOT.href;
  }

  get hasKey() {
    return this.#key !== "";
  }

  /** Use a key from now on. */
  useKey(key) {
    this.#key = key;
  }

  /** Request a path; throws KeyRefused, or an Error with the server's own words. */
  async request(path, options = {}) {
    const headers = { ...options.headers };
    if (this.hasKey) headers["xi-api-key"] = this.#key;
    const answer = await fetch(new URL(path, ROOT), { ...options, headers, cache: "no-store" });
    if (answer.ok) return answer;
    const message = await messageOf(answer);
    if (answer.status === 401) throw new KeyRefused(message);
    throw new Error(message);
  }

  async voices() {
    const answer = await this.request("v1/voices");
    return (await answer.json()).voices;
  }

  async metrics() {
    return (await this.request("metrics")).text();
  }

  /** Return the audio of a speech request, whole. */
  async speech(voice, format, body) {
    const path = `v1/text-to-speech/${encodeURIComponent(voice)}?output_format=${format}`;
    const headers = { "content-type": "application/json" };
    const answer = await this.request(path, { method: "POST", headers, body: JSON.stringify(body) });
    return answer.blob();
  }

  /** Open a `multi-stream-input` socket. */
  async openSocket(voice, query) {
    const path = `v1/text-to-speech/${encodeURIComponent(voice)}/multi-stream-input`;
    const url = new URL(path, ROOT);
    url.protocol = url.protocol.replace("http", "ws");
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    // Browsers cannot set headers of a socket: a token that opens one takes the key's place.
    if (this.hasKey) url.searchParams.set("single_use_token", await this.#token());
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(url);
      socket.onopen = () => resolve(socket);
      socket.onclose = () =>
        reject(new Error("The server refused the session: it is full, or a setting is wrong."));
    });
  }

  async #token() {
    const answer = await this.request("v1/single-use-token/tts_websocket", { method: "POST" });
    return (await answer.json()).token;
  }
}

async function messageOf(answer) {
  try {
    const { detail } = await answer.json();
    const [first] = Array.isArray(detail) ? detail : [{ msg: detail.message }];
    return first.msg;
  } catch {
    return `The server answered ${answer.status}.`;
  }
}
