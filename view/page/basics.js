// What every part of the view needs: elements, times, colours, downloads.
"use strict";

const LABEL_COLOURS = ["#d55e00", "#0072b2", "#cc79a7", "#009e73", "#e69f00", "#56b4e9", "#7f8c99", "#8a5fbf"]; // Okabe-Ito and two more
const MODALITIES = ["text", "visual", "audio"]; // each has a pattern in view.css, so that none looks like a label
const DOUBTFUL = 0.5; // words with a lower probability are underlined

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text; // text of files and models only ever becomes textContent
  return made;
}

function button(text, className, onclick) {
  const made = element("button", className, text);
  made.type = "button";
  made.addEventListener("click", onclick);
  return made;
}

const percent = (value) => `${(100 * value).toFixed(value > 0.0995 ? 0 : 1)} %`;

function clock(seconds, digits = 1) {
  const unit = 10 ** digits;
  const rounded = Math.round(seconds * unit) / unit; // first, so that 59.96 s is 1:00.0
  const hours = Math.floor(rounded / 3600);
  const minutes = Math.floor(rounded / 60) % 60;
  const rest = (rounded % 60).toFixed(digits).padStart(digits ? digits + 3 : 2, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

const from = ({ start, end }) => `${clock(start)} to ${clock(end)}`;

// Who it is about, where people have answers of their own.
const whose = ({ person }, people) => (people.length > 1 && person ? `Person ${person}, ` : "");

// What a prediction says, in a few words.
function headline(prediction) {
  if (prediction.uncertain) return "uncertain";
  if (prediction.labels.length) return prediction.labels.join(", ");
  return Object.keys(prediction.probabilities).length ? "no emotion over its threshold" : "nothing to go on";
}

function mostProbable(prediction) {
  return Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1])[0]?.[0] ?? null;
}

function download(name, kind, text) {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

const downloadJson = (name, value) => download(name, "application/json", JSON.stringify(value, null, 1));

const stem = (name) => name.replace(/\.[^.]*$/, "") || name;

// The words of segments as WebVTT: [{start, end, text}].
function webvtt(cues) {
  const time = (seconds) => {
    const ms = Math.round(1000 * seconds);
    const two = (value) => String(Math.floor(value)).padStart(2, "0");
    return `${two(ms / 3_600_000)}:${two((ms / 60_000) % 60)}:${two((ms / 1000) % 60)}.${String(ms % 1000).padStart(3, "0")}`;
  };
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\s*\n\s*/g, " ");
  const spoken = cues.filter((cue) => cue.text);
  return ["WEBVTT", ...spoken.map((cue) => `${time(cue.start)} --> ${time(cue.end)}\n${plain(cue.text)}`)].join("\n\n") + "\n";
}
