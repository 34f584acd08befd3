// The page's camera: a recording becomes the chosen video.
"use strict";

const CAMERA_S = 60; // a recording stops by itself

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
  const preview = element("video", "preview");
  preview.muted = preview.playsInline = true;
  preview.srcObject = stream;
  preview.setAttribute("aria-label", "What the camera sees");
  drop.after(preview);
  preview.play();
  const limit = setTimeout(() => recorder.stop(), 1000 * CAMERA_S);
  recorder.addEventListener("dataavailable", (event) => parts.push(event.data));
  recorder.addEventListener("stop", () => {
    clearTimeout(limit);
    stream.getTracks().forEach((track) => track.stop());
    preview.remove();
    at("stop").hidden = true;
    at("camera").hidden = false;
    const suffix = recorder.mimeType.includes("mp4") ? "mp4" : "webm";
    choose(new Blob(parts, { type: recorder.mimeType }), `recording.${suffix}`);
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
