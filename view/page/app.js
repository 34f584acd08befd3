// The server's page: choose a video, send it, show each segment's answer as it comes, correct the words and send again.
"use strict";

const EXAMPLE = "example.mp4";
const PLAIN_WINDOW = "2"; // what a video without words is cut into, unless the user says otherwise
const at = (id) => document.getElementById(id);
let chosen = null; // {file: File or Blob, name, duration: seconds or null}
let model = null;
let shown = null; // the View of the answers
let running = null; // the AbortController of the request under way
let cutByUser = false;

function say(text, bad = false) {
  at("status").textContent = text;
  at("status").classList.toggle("warn", bad);
}

async function loadModel() {
  const key = at("key").value;
  const response = await fetch("v1/model", { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  if (response.status === 401) at("locked").hidden = false;
  if (!response.ok) throw new Error(problem(response.status, await response.text()));
  model = await response.json();
  const { upload_bytes, media_s, media_pixels } = model.limits;
  at("model").textContent = `Model: ${model.description}, on ${model.backend.name} (${model.backend.precision}).`;
  at("limits").textContent =
    `MP4, MOV, MKV, WebM, AVI and other video; WAV, MP3, M4A, FLAC and other sound. At most ${Math.floor(upload_bytes / 2 ** 20)} MB, ` +
    `${media_s < 120 ? `${media_s} s` : `${Math.floor(media_s / 60)} minutes`} and ${(media_pixels / 1e6).toFixed(1)} megapixels. It is sent to this server only, and deleted after the response.`;
  at("hears").textContent = model.recogniser
    ? `(left empty, it is recognised by ${model.recogniser})`
    : "(left empty, the answer goes without words: this server recognises no speech)";
  at("warnings").replaceChildren(...model.warnings.map((each) => element("p", "banner", each)));
  showCard(model.card);
  suggestCut();
}

function showCard({ intended_use, not_for, limits, law }) {
  const part = (title, lines) => [element("h3", "", title), ...lines.map((line) => element("p", "", line))];
  at("card").replaceChildren(
    ...part("Intended use", intended_use),
    ...part("Not for", not_for),
    ...part("Limits", limits),
    ...part("The law", [law]),
  );
  at("about").hidden = false;
}

// With words, utterances are what the model was made for.
function suggestCut() {
  if (!cutByUser) at("window").value = at("transcript").value.trim() || model?.recogniser ? "utterance" : PLAIN_WINDOW;
}

function giveWords(text) {
  at("transcript").value = text;
  at("said").open = Boolean(text);
  suggestCut();
}

function choose(file, name) {
  chosen = { file, name, duration: null };
  describeChosen();
  at("go").disabled = false;
  const most = model?.limits.upload_bytes;
  if (most && file.size > most) say(`${name} is larger than this server takes (${Math.floor(most / 2 ** 20)} MB).`, true);
  else say("");
  const video = document.createElement("video"); // for its length, if this browser can play it
  const mine = chosen;
  video.addEventListener("loadedmetadata", () => {
    URL.revokeObjectURL(video.src);
    if (!Number.isFinite(video.duration)) return;
    mine.duration = video.duration;
    if (chosen !== mine) return;
    describeChosen();
    if (model && video.duration > model.limits.media_s) say(`${name} is longer than this server takes (${clock(model.limits.media_s, 0)}).`, true);
  });
  video.addEventListener("error", () => URL.revokeObjectURL(video.src));
  video.preload = "metadata";
  video.src = URL.createObjectURL(file);
}

function describeChosen() {
  const { file, name, duration } = chosen;
  at("chosen").textContent = `${name} (${(file.size / 2 ** 20).toFixed(1)} MB${duration ? `, ${clock(duration)}` : ""})`;
}

async function chooseAll(files) {
  for (const file of files) {
    if (/\.(srt|vtt|txt)$/i.test(file.name)) giveWords(await file.text());
    else choose(file, file.name);
  }
}

async function loadExample() {
  const [clip, words] = await Promise.all([EXAMPLE, "example.vtt"].map((path) => fetch(path)));
  if (!clip.ok || !words.ok) throw new Error("the example cannot be had");
  giveWords(await words.text());
  choose(new Blob([await clip.arrayBuffer()], { type: "video/mp4" }), EXAMPLE);
  say("A drawn face and a synthesised voice, made by this server.");
  at("go").focus();
}

function form(parts) {
  const made = new FormData();
  for (const [name, value] of Object.entries(parts)) made.append(name, value);
  made.append("video", chosen.file, "video"); // last: the server may reject the rest before it takes the video
  return made;
}

// Send the chosen video with these parts. Returns whether the answer is whole.
async function ask(parts, onPrediction) {
  running = new AbortController();
  busy(true);
  let count = 0;
  try {
    if (!model) await loadModel();
    say(`Sending ${chosen.name} …`);
    await predict(form(parts), at("key").value, running.signal, {
      sent(share) {
        at("progress").value = share;
        say(share < 1 ? `Sending ${chosen.name}: ${percent(share)}` : "Reading the video …");
        if (share === 1) at("progress").removeAttribute("value");
      },
      prediction(segment) {
        count += 1;
        onPrediction(segment);
        const whole = chosen.duration;
        if (whole) at("progress").value = Math.min(1, segment.end / whole);
        say(`${segments(count)}, up to ${clock(segment.end)}${whole ? ` of ${clock(whole)}` : ""} …`);
      },
    });
    say(`Done: ${segments(count)}.`);
    return true;
  } catch (error) {
    if (error.status === 401) at("locked").hidden = false;
    const reason = error.message.replace(/^video(?= )/, chosen.name); // what the server calls a file whose name it never looks at
    const why = running.signal.aborted ? "Cancelled" : `Error: ${reason}`;
    say(count ? `${why} (after ${segments(count)})` : why, !running.signal.aborted);
    return false;
  } finally {
    running = null;
    busy(false);
  }
}

const segments = (count) => (count === 1 ? "1 segment" : `${count} segments`);

const people = () => (at("people").value ? { people: at("people").value } : {});

async function askFirst() {
  const words = at("transcript").value.trim();
  const parts = { window: at("window").value, ...people(), ...(words && { transcript: new Blob([words]) }) };
  shown = null;
  at("ask").hidden = true; // on a phone it would push the progress out of sight
  const whole = await ask(parts, (segment) => {
    if (!shown) openView();
    shown.add(segment);
    summarise();
  });
  if (!shown) {
    at("ask").hidden = false;
    at("go").focus();
    return;
  }
  if (whole) shown.finish();
}

function openView() {
  at("answers").hidden = false;
  at("title").textContent = chosen.name;
  shown = new View(at("view"), model, AGAIN);
  shown.setMedia(URL.createObjectURL(chosen.file), chosen.name);
  at("title").focus();
}

const AGAIN = {
  label: "Predict again",
  hint: "The video is sent again with these words; the server keeps nothing.",
  run: (corrections) => chosen && askAgain(corrections),
};

// Only the segments whose words were corrected are asked for.
async function askAgain(corrections) {
  const view = shown;
  const asked = corrections.map(({ segment, text }) => ({ start: segment.start, end: segment.end, text }));
  const same = (a, b) => a.start === b.start && a.end === b.end;
  const apart = (a, b) => Math.hypot(...[0, 1].map((i) => (a.faces[0]?.box[i] ?? 0) - (b.faces[0]?.box[i] ?? 0)));
  const left = view.segments.filter((each) => corrections.some(({ segment }) => same(segment, each)));
  await ask({ segments: JSON.stringify(asked), ...people() }, (answer) => {
    // Whose it is: people are numbered as they appear, and fewer frames were asked for than before.
    const [old] = left.filter((each) => same(each, answer)).sort((a, b) => apart(a, answer) - apart(b, answer));
    if (!old) return;
    left.splice(left.indexOf(old), 1);
    const partly = (flag) => flag === "transcript_covers_part" && !old.flags.includes(flag); // it is this request that asks for parts
    view.replace(old, { ...answer, person: old.person, flags: answer.flags.filter((flag) => !partly(flag)) });
    summarise();
  });
}

function summarise() {
  const counts = new Map();
  for (const label of shown.segments.flatMap((each) => each.labels)) counts.set(label, (counts.get(label) ?? 0) + 1);
  const most = [...counts].sort((a, b) => b[1] - a[1]).map(([label, count]) => `${label} in ${count}`);
  at("summary").textContent = `${most.join(", ") || "No emotion over its threshold"}, of ${segments(shown.segments.length)}.`;
}

function busy(is) {
  at("progress").hidden = at("cancel").hidden = !is;
  if (is) at("cancel").focus();
  at("go").disabled = is || !chosen;
  at("go").setAttribute("aria-busy", String(is));
  at("after").hidden = at("another").hidden = is || !shown;
}

at("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) askFirst();
});
at("cancel").addEventListener("click", () => running?.abort());
at("another").addEventListener("click", () => {
  at("answers").hidden = at("another").hidden = true;
  shown?.media.pause();
  if (shown) URL.revokeObjectURL(shown.media.src);
  at("ask").hidden = false;
  giveWords("");
  say("");
  at("file").value = "";
  at("file").focus();
});
at("save").addEventListener("click", () =>
  downloadJson(`${stem(chosen.name)}.json`, shown.segments.map((each) => ({ ...each, file: chosen.name }))));
at("subtitles").addEventListener("click", () => download(`${stem(chosen.name)}.vtt`, "text/vtt", webvtt(shown.words.cues())));
at("file").addEventListener("change", () => chooseAll(at("file").files));
at("example").addEventListener("click", () => loadExample().catch((error) => say(error.message, true)));
at("window").addEventListener("change", () => { cutByUser = true; });
at("transcript").addEventListener("input", suggestCut);
at("key").addEventListener("change", () => loadModel().then(() => say(""), (error) => say(error.message, true)));

const drop = at("drop");
for (const name of ["dragover", "dragleave", "drop"])
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop") chooseAll(event.dataTransfer.files);
  });

loadModel().catch((error) => say(error.message, at("locked").hidden));
