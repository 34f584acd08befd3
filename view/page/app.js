// The server's page: choose or record a video, send it, show each segment's answer as it comes.
"use strict";

const CAMERA_S = 60; // a recording stops by itself
const at = (id) => document.getElementById(id);
let chosen = null; // the File or Blob to send
let model = null;
let answers = [];
let running = null; // the AbortController of the request under way

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("warn", bad);
}

function headers() {
  return at("key").value ? { Authorization: `Bearer ${at("key").value}` } : {};
}

async function problem(response) {
  const reported = await response.json().then((body) => body.error, () => null);
  if (response.status === 401) at("locked").hidden = false;
  return reported ? `${reported.message}${reported.hint ? `; ${reported.hint}` : ""}` : `the server answered ${response.status}`;
}

async function loadModel() {
  const response = await fetch("v1/model", { headers: headers() });
  if (!response.ok) throw new Error(await problem(response));
  model = await response.json();
  at("model").textContent = model.description;
}

function choose(file, name) {
  chosen = file;
  at("chosen").textContent = `${name} (${(file.size / 2 ** 20).toFixed(1)} MB)`;
  at("go").disabled = false;
  say("");
}

async function* lines(response) {
  const decoder = new TextDecoder();
  let rest = "";
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    rest += decoder.decode(value ?? new Uint8Array(), { stream: !done });
    const parts = rest.split("\n");
    rest = parts.pop();
    for (const part of parts) if (part) yield JSON.parse(part);
    if (done) return;
  }
}

function form() {
  const made = new FormData();
  const transcript = at("transcript").value.trim();
  if (transcript) made.append("transcript", new Blob([transcript]), "transcript");
  made.append("window", at("window").value);
  made.append("video", chosen, "video");
  return made;
}

async function ask() {
  running = new AbortController();
  answers = [];
  let whole = false;
  try {
    if (!model) await loadModel();
    say("Sending the video …");
    const response = await fetch("v1/predict", {
      method: "POST", body: form(), signal: running.signal, headers: { ...headers(), Accept: "application/x-ndjson" },
    });
    if (!response.ok) throw new Error(await problem(response));
    at("view").hidden = false;
    const shown = new View(at("view"), model);
    shown.setMedia(URL.createObjectURL(chosen));
    for await (const line of lines(response)) {
      if (line.error) throw new Error(line.error.message);
      if (typeof line.end === "object") { whole = true; break; } // a segment has its end in seconds there
      answers.push(line);
      shown.add(line);
      say(`${answers.length} segments so far …`);
    }
    if (!whole) throw new Error("the response was cut off");
    say(`Done: ${answers.length} segments.`);
  } catch (error) {
    const why = running.signal.aborted ? "Cancelled" : `Error: ${error.message}`;
    say(answers.length ? `${why} (after ${answers.length} segments)` : why, !running.signal.aborted);
  } finally {
    running = null;
    at("after").hidden = answers.length === 0;
  }
}

function busy(is) {
  at("progress").hidden = at("cancel").hidden = !is;
  at("go").disabled = is || !chosen;
  at("go").setAttribute("aria-busy", String(is));
}

at("ask").addEventListener("submit", async (event) => {
  event.preventDefault();
  busy(true);
  await ask();
  busy(false);
});
at("cancel").addEventListener("click", () => running?.abort());
at("save").addEventListener("click", () => download("emotions.json", answers));
at("file").addEventListener("change", () => at("file").files[0] && choose(at("file").files[0], at("file").files[0].name));

const drop = at("drop");
for (const name of ["dragover", "dragleave", "drop"])
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) choose(event.dataTransfer.files[0], event.dataTransfer.files[0].name);
  });

async function record() {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640 }, audio: true });
  } catch (error) {
    say(`The camera cannot be used: ${error.message}`, true);
    return;
  }
  const recorder = new MediaRecorder(stream);
  const parts = [];
  const view = new View(at("view"), model ?? { labels: [], thresholds: {} });
  at("view").hidden = false;
  view.media.srcObject = stream;
  view.media.muted = true;
  view.media.play();
  const limit = setTimeout(() => recorder.stop(), 1000 * CAMERA_S);
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  recorder.addEventListener("stop", () => {
    clearTimeout(limit);
    stream.getTracks().forEach((track) => track.stop());
    at("stop").hidden = true;
    at("camera").hidden = false;
    at("view").hidden = true;
    choose(new Blob(parts, { type: recorder.mimeType }), "your recording");
    at("go").focus();
  });
  recorder.start();
  at("stop").onclick = () => recorder.stop();
  at("stop").hidden = false;
  at("camera").hidden = true;
  at("stop").focus();
  say(`Recording, ${CAMERA_S} s at most …`);
}

at("camera").addEventListener("click", record);
at("camera").hidden = !(navigator.mediaDevices && window.MediaRecorder);

loadModel().catch((error) => say(error.message, at("locked").hidden));
