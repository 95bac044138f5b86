// The program for what was played, to copy: curl, Python and JavaScript. The key is never in it.

/** Return the JSON body of a speech request: the text, and what differs from the defaults. */
export function requestBody({ text, speed, stability, temperature, topK, seed }) {
  const voiceSettings = {};
  if (speed !== 1) voiceSettings.speed = speed;
  if (stability !== 0.5) voiceSettings.stability = stability;
  const body = { text };
  if (Object.keys(voiceSettings).length) body.voice_settings = voiceSettings;
  if (temperature !== null) body.temperature = temperature;
  if (topK !== null) body.top_k = topK;
  if (seed !== null) body.seed = seed;
  return body;
}

/** Return `{curl, python, javascript}`. `request` also has `voice` and `format`. */
export function snippets(base, request, hasKey) {
  const address = base.replace(/\/$/, "");
  const url = `${address}/v1/text-to-speech/${encodeURIComponent(request.voice)}/stream`;
  const whole = {
    address,
    url: `${url}?output_format=${request.format}`,
    body: requestBody(request),
    file: `speech.${request.format.split("_")[0]}`,
    request,
    hasKey,
  };
  return { curl: curl(whole), python: python(whole), javascript: javascript(whole) };
}

function curl({ url, body, file, hasKey }) {
  const quoted = JSON.stringify(body).replaceAll("'", "'\\''");
  const key = hasKey ? ' -H "xi-api-key: $CSM_API_KEY"' : "";
  return [
    `curl -s '${url}' -o ${file}${key} \\`,
    "  -H 'content-type: application/json' \\",
    `  -d '${quoted}'`,
  ].join("\n");
}

function python({ address, body, file, request, hasKey }) {
  const { text, voice_settings: voiceSettings, seed, ...others } = body;
  const lines = [`    ${JSON.stringify(request.voice)},`, `    text=${JSON.stringify(text)},`];
  lines.push(`    output_format=${JSON.stringify(request.format)},`);
  if (seed !== undefined) lines.push(`    seed=${seed},`);
  if (voiceSettings) lines.push(`    voice_settings=VoiceSettings(${keywords(voiceSettings)}),`);
  if (Object.keys(others).length) {
    lines.push(`    request_options={"additional_body_parameters": ${JSON.stringify(others)}},`);
  }
  const key = hasKey ? 'os.environ["CSM_API_KEY"]' : '"none"';
  return [
    ...(hasKey ? ["import os", ""] : []),
    `from elevenlabs${voiceSettings ? " import ElevenLabs, VoiceSettings" : " import ElevenLabs"}`,
    "",
    `client = ElevenLabs(base_url=${JSON.stringify(address)}, api_key=${key})`,
    "audio = client.text_to_speech.stream(",
    ...lines,
    ")",
    `with open("${file}", "wb") as file:`,
    "    for chunk in audio:",
    "        file.write(chunk)",
  ].join("\n");
}

function keywords(object) {
  return Object.entries(object).map(([name, value]) => `${name}=${value}`).join(", ");
}

function javascript({ url, body, file, hasKey }) {
  const key = hasKey ? ', "xi-api-key": process.env.CSM_API_KEY' : "";
  return [
    'import { writeFile } from "node:fs/promises";',
    "",
    `const answer = await fetch(${JSON.stringify(url)}, {`,
    '  method: "POST",',
    `  headers: { "content-type": "application/json"${key} },`,
    `  body: JSON.stringify(${JSON.stringify(body)}),`,
    "});",
    "if (!answer.ok) throw new Error(await answer.text());",
    `await writeFile("${file}", answer.body);`,
  ].join("\n");
}
