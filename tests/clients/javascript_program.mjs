// A program written for ElevenLabs' and OpenAI's JavaScript SDKs; prints the results as JSON.
// It knows nothing of this server but its address: javascript_program.mjs BASE_URL API_KEY.

import { ElevenLabsClient } from "@elevenlabs/elevenlabs-js";
import OpenAI from "openai";

const [baseUrl, apiKey] = process.argv.slice(2);
const text = "Thank you for calling.";
const calm = { stability: 0.9, similarityBoost: 0.8, style: 0.0, useSpeakerBoost: true, speed: 1.0 };

const base64 = (bytes) => Buffer.from(bytes).toString("base64");

async function drained(stream) {
  const chunks = [];
  for await (const chunk of stream) chunks.push(chunk);
  return base64(Buffer.concat(chunks));
}

async function refusal(request) {
  try {
    await request();
  } catch (error) {
    return [error.statusCode ?? error.status, error.body ?? error.error];
  }
  throw new Error("it was not refused");
}

async function speech(client) {
  const speak = client.textToSpeech;
  const requested = { text, seed: 7 };
  const chunks = [];
  for await (const one of await speak.streamWithTimestamps("default", requested)) chunks.push(one.audioBase64);
  const { data, rawResponse } = await speak.stream("default", requested).withRawResponse();
  const headers = Object.fromEntries(rawResponse.headers.entries());
  return {
    convert: await drained(await speak.convert("default", requested)),
    convert_pcm: await drained(
      await speak.convert("speaker_1", {
        ...requested,
        outputFormat: "pcm_24000",
        modelId: "eleven_flash_v2_5",
        voiceSettings: calm,
        previousText: "Hello.",
        nextText: "How can I help?",
      }),
    ),
    stream: await drained(await speak.stream("default", requested)),
    with_timestamps: (await speak.convertWithTimestamps("default", requested)).audioBase64,
    stream_with_timestamps: base64(Buffer.concat(chunks.map((one) => Buffer.from(one, "base64")))),
    timestamp_chunks: chunks.length,
    raw: await drained(data),
    headers,
    chained: await drained(
      await speak.convert("default", { ...requested, previousRequestIds: [headers["request-id"]] }),
    ),
  };
}

async function dialogue(client) {
  const speak = client.textToDialogue;
  const inputs = [
    { text: "How are you?", voiceId: "speaker_1" },
    { text: "Fine, thanks.", voiceId: "speaker_2" },
  ];
  const whole = await speak.convertWithTimestamps({ inputs, seed: 7 });
  const chunks = [];
  for await (const one of await speak.streamWithTimestamps({ inputs, seed: 7 })) chunks.push(one);
  return {
    convert: await drained(await speak.convert({ inputs, seed: 7 })),
    with_timestamps: whole.audioBase64,
    stream_with_timestamps: base64(Buffer.concat(chunks.map((one) => Buffer.from(one.audioBase64, "base64")))),
    chars: whole.alignment.characters.join(""),
    segments: whole.voiceSegments.map((one) => [
      one.dialogueInputIndex,
      one.voiceId,
      one.characterStartIndex,
      one.characterEndIndex,
    ]),
    streamed_inputs: [
      ...new Set(chunks.flatMap((one) => one.voiceSegments.map((part) => part.dialogueInputIndex))),
    ],
  };
}

async function lists(client) {
  const page = await client.voices.search({ pageSize: 2, search: "speaker", includeTotalCount: true });
  const next = await client.voices.search({
    pageSize: 2,
    search: "speaker",
    nextPageToken: page.nextPageToken,
  });
  await client.voices.settings.update("speaker_3", calm);
  const subscription = await client.user.subscription.get();
  const history = await client.history.list();
  const models = await client.models.list();
  return {
    voices: (await client.voices.getAll()).voices.map((one) => [one.voiceId, one.name, one.category]),
    page: [page.voices.map((one) => one.voiceId), page.hasMore, page.totalCount],
    next_page: next.voices.map((one) => one.voiceId),
    voice: (await client.voices.get("speaker_1")).voiceId,
    default_stability: (await client.voices.settings.getDefault()).stability,
    edited_stability: (await client.voices.settings.get("speaker_3")).stability,
    models: Object.fromEntries(
      models.map((one) => [one.modelId, one.languages.map((language) => language.languageId)]),
    ),
    user: (await client.user.get()).subscription.status,
    subscription: [subscription.status, subscription.openInvoices.length],
    history: [history.history.length, history.hasMore],
  };
}

async function clone(client) {
  const spoken = "Please call me back tomorrow morning, when the office is open again.";
  const speak = client.textToSpeech;
  const clip = Buffer.from(await drained(await speak.convert("speaker_2", { text: spoken, seed: 7 })), "base64");
  const { voiceId } = await client.voices.ivc.create({
    name: "Clone",
    files: [new Blob([clip])],
    description: "Of speaker 2.",
    labels: { transcript: spoken, accent: "none" },
  });
  const voice = await client.voices.get(voiceId);
  const sample = await drained(await client.voices.samples.audio.get(voiceId, voice.samples[0].sampleId));
  const speech = await drained(await speak.convert(voiceId, { text, outputFormat: "pcm_24000" }));
  await client.voices.update(voiceId, { name: "Renamed" });
  const renamed = (await client.voices.get(voiceId)).name;
  await client.voices.delete(voiceId);
  return {
    voice: [voice.name, voice.category, voice.description, voice.labels.accent],
    sample: Buffer.from(sample, "base64").subarray(0, 4).toString(),
    speech,
    renamed,
    gone: (await refusal(() => client.voices.get(voiceId)))[0],
  };
}

async function errors(client, stranger) {
  const speak = client.textToSpeech;
  return {
    key: await refusal(() => stranger.voices.getAll()),
    key_of_speech: await refusal(() => stranger.textToSpeech.convert("default", { text: "a" })),
    voice: await refusal(() => speak.convert("nobody", { text: "a" })),
    field: await refusal(() => speak.convert("default", { text: "a", voiceSettings: { stability: 3 } })),
    length: await refusal(() => speak.convert("default", { text: "a".repeat(10001) })),
    transcript: await refusal(() =>
      client.voices.ivc.create({ name: "x", files: [new Blob([new Uint8Array(300000)])] }),
    ),
    delete: await refusal(() => client.voices.delete("default")),
  };
}

async function openai() {
  const client = new OpenAI({ apiKey, baseURL: `${baseUrl}/v1` });
  const stranger = new OpenAI({ apiKey: "wrong", baseURL: `${baseUrl}/v1` });
  const requested = { model: "tts-1", voice: "alloy", input: text, response_format: "pcm" };
  const answer = await client.audio.speech.create(requested);
  const events = await (await client.audio.speech.create({ ...requested, stream_format: "sse" })).text();
  const models = [];
  for await (const model of client.models.list()) models.push(model.id);
  return {
    bytes: (await answer.arrayBuffer()).byteLength,
    events: events.trim().split("\n\n").map((event) => JSON.parse(event.slice("data: ".length)).type),
    models,
    errors: {
      key: await refusal(() => stranger.audio.speech.create(requested)),
      voice: await refusal(() => client.audio.speech.create({ ...requested, voice: "nobody" })),
    },
  };
}

const client = new ElevenLabsClient({ baseUrl, apiKey });
const stranger = new ElevenLabsClient({ baseUrl, apiKey: "wrong" });
console.log(
  JSON.stringify({
    speech: await speech(client),
    clone: await clone(client),
    dialogue: await dialogue(client),
    lists: await lists(client),
    errors: await errors(client, stranger),
    token: (await client.tokens.singleUse.create("tts_websocket")).token,
    openai: await openai(),
  }),
);
