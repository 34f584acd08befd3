// The page's camera: what it records is sent to the server as it comes, and answers appear while it goes on.
// Afterwards the recording is the chosen video.
"use strict";

const CAMERA_S = 600; // a recording stops by itself
const CHUNK_MS = 250;
const LIVE_WINDOW = { window: 3, hop: 1 }; // seconds
const MOST_WAITING = 4 * 2 ** 20; // bytes that the connection may hold before the recording is stopped

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
  const live = new LiveAnswers(stream, () => recorder.state !== "inactive" && recorder.stop());
  const limit = setTimeout(() => recorder.stop(), 1000 * CAMERA_S);
  recorder.addEventListener("dataavailable", (event) => {
    parts.push(event.data);
    live.send(event.data);
  });
  recorder.addEventListener("stop", async () => {
    clearTimeout(limit);
    at("stop").hidden = true;
    const suffix = recorder.mimeType.includes("mp4") ? "mp4" : "webm";
    choose(new Blob(parts, { type: recorder.mimeType }), `recording.${suffix}`);
    await live.end();
    stream.getTracks().forEach((track) => track.stop());
    at("camera").hidden = false;
    live.review(chosen);
  });
  recorder.start(CHUNK_MS);
  at("stop").onclick = () => recorder.stop();
  at("stop").hidden = false;
  at("camera").hidden = true;
  at("stop").focus();
}

// The answers to one recording while it goes on.
class LiveAnswers {
  // stop: called when the server takes no more.
  constructor(stream, stop) {
    this.stream = stream;
    this.stop = stop;
    this.view = null;
    this.fault = null;
    this.preview = element("video", "preview");
    this.preview.muted = this.preview.playsInline = true;
    this.preview.srcObject = stream;
    this.preview.setAttribute("aria-label", "What the camera sees");
    drop.after(this.preview);
    this.preview.play();
    this.waiting = [];
    this.socket = new WebSocket(new URL("v1/live", location.href.replace(/^http/, "ws")));
    this.ready = false;
    this.socket.addEventListener("open", () => this.socket.send(JSON.stringify({ type: "start", key: at("key").value, ...LIVE_WINDOW })));
    this.socket.addEventListener("message", (event) => this.#take(JSON.parse(event.data)));
    this.closed = new Promise((resolve) => this.socket.addEventListener("close", resolve));
    this.closed.then(() => stop());
    say("Recording. The first answer comes after three seconds …");
  }

  send(chunk) {
    if (this.ready) this.socket.send(chunk);
    else this.waiting.push(chunk);
    if (this.socket.bufferedAmount > MOST_WAITING) {
      this.fault = "the connection is too slow for the camera";
      this.stop();
    }
  }

  // Wait for the last answers.
  async end() {
    if (this.socket.readyState === WebSocket.OPEN && this.ready) this.socket.send(JSON.stringify({ type: "end" }));
    else this.socket.close();
    await this.closed;
    this.preview.remove();
    if (this.fault) say(`Error: ${this.fault}. The recording is kept: it can be sent as a whole.`, true);
  }

  // Show the recording with its answers, or offer to send it.
  review(recording) {
    if (!this.view) {
      at("go").focus();
      return;
    }
    this.view.media.srcObject = null;
    this.view.setMedia(URL.createObjectURL(recording.file), recording.name);
    this.view.finish();
    shown = this.view;
    busy(false);
    at("title").textContent = recording.name;
    at("title").focus();
    if (!this.fault) say(`Done: ${segments(this.view.segments.length)}.`);
  }

  #take(message) {
    if (message.type === "ready") {
      this.ready = true;
      for (const chunk of this.waiting.splice(0)) this.socket.send(chunk);
    } else if (message.type === "prediction") this.#show(message);
    else if (message.type === "error") {
      this.fault = problem(0, JSON.stringify(message));
      if (message.error.code === "no_key") at("locked").hidden = false;
    }
  }

  // Windows overlap; on the timeline each stands for what is new in it.
  #show({ prediction, live }) {
    if (!this.view) this.#open();
    const start = Math.min(this.view.segments.at(-1)?.end ?? prediction.start, prediction.end);
    this.view.add({ ...prediction, start, faces: prediction.faces.filter((face) => face.time >= start) });
    this.view.show(prediction.end, this.view.segments.at(-1));
    summarise();
    const lost = live.dropped ? `; ${live.dropped} frames came too late for this server` : "";
    say(`Live: ${clock(prediction.end)}, ${live.lag_s.toFixed(1)} s behind${lost}`);
  }

  #open() {
    at("answers").hidden = false;
    at("title").textContent = "Your camera";
    this.view = shown = new View(at("view"), model, AGAIN);
    this.view.setMedia("live");
    this.view.media.removeAttribute("src");
    this.view.media.muted = true;
    this.view.media.srcObject = this.stream;
    this.view.media.play();
    this.preview.hidden = true;
  }
}

at("camera").addEventListener("click", record);
at("camera").hidden = !(navigator.mediaDevices && window.MediaRecorder);
