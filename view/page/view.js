// The view of one file's answers: player with face boxes, emotion timeline, the segment under the playhead in detail.
// Shared by the server's page and by `mmx predict --html`. Text from files only ever becomes textContent.
"use strict";

const PALETTE = ["#d55e00", "#e69f00", "#cc79a7", "#009e73", "#7f8c99", "#0072b2", "#56b4e9", "#8a6d3b"]; // Okabe-Ito and two more
const MODALITY_COLOURS = { text: "#0072b2", visual: "#e69f00", audio: "#009e73" };
const FACE_HELD_S = 0.3; // a box is shown this long around the frame it was found in, and between two frames of one stretch
const FACE_GAP_S = 1.1;

function element(tag, className = "", text = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text) made.textContent = text;
  return made;
}

const percent = (value) => `${(100 * value).toFixed(value > 0.0995 && value < 0.9995 ? 0 : 1)} %`;

function clock(seconds) {
  const minutes = Math.floor(seconds / 60);
  return `${minutes}:${(seconds - 60 * minutes).toFixed(1).padStart(4, "0")}`;
}

// The box at a time: between two frames of one stretch it moves in a straight line.
function faceAt(faces, time) {
  let before = null;
  let after = null;
  for (const face of faces) {
    if (face.time <= time) before = face;
    else { after = face; break; }
  }
  if (before && after && after.time - before.time <= FACE_GAP_S) {
    const part = (time - before.time) / (after.time - before.time);
    return before.box.map((value, i) => value + part * (after.box[i] - value));
  }
  const near = [before, after].find((face) => face && Math.abs(face.time - time) <= FACE_HELD_S);
  return near ? near.box : null;
}

class View {
  // root: where it goes. model: {labels, thresholds: {label: number}, ...}.
  constructor(root, model) {
    this.model = model;
    this.segments = [];
    this.faces = [];
    this.current = null;
    this.duration = 0;
    root.replaceChildren();

    const stage = element("div", "stage");
    this.player = element("div", "player");
    this.media = element("video");
    this.media.controls = true;
    this.media.playsInline = true;
    this.box = element("div", "face");
    this.box.hidden = true;
    this.player.append(this.media, this.box);
    const left = element("div");
    this.cannotPlay = element("p", "warn", "This browser cannot play this file; the answers below still stand.");
    this.cannotPlay.hidden = true;
    left.append(this.player, this.cannotPlay);
    this.detail = element("section", "detail");
    this.detail.setAttribute("aria-live", "polite");
    this.detail.setAttribute("aria-label", "This segment");
    stage.append(left, this.detail);

    this.timeline = element("div", "timeline");
    this.timeline.setAttribute("role", "group");
    this.timeline.setAttribute("aria-label", "Emotions over time; left and right arrow keys go from segment to segment");
    this.strip = this.#band("time", "segments");
    this.bands = Object.fromEntries(model.labels.map((label) => [label, this.#band(label)]));
    this.playhead = element("div", "playhead");
    this.timeline.append(this.playhead);
    root.append(stage, this.timeline, this.#legend());

    this.timeline.addEventListener("click", (event) => {
      if (event.target.closest(".segment") || !this.duration) return;
      const area = this.timeline.getBoundingClientRect();
      this.seek(((event.clientX - area.left) / area.width) * this.duration);
    });
    this.strip.addEventListener("keydown", (event) => this.#arrow(event));
    this.media.addEventListener("loadedmetadata", () => {
      this.player.classList.toggle("sound", this.media.videoWidth === 0);
      this.#extend(this.media.duration);
      this.show(this.media.currentTime);
    });
    this.media.addEventListener("error", () => { this.cannotPlay.hidden = false; this.player.hidden = true; });
    for (const event of ["timeupdate", "seeked"]) this.media.addEventListener(event, () => this.show(this.media.currentTime));
    this.media.addEventListener("play", () => this.#follow());
    this.#describe(null);
  }

  setMedia(source) {
    this.cannotPlay.hidden = true;
    this.player.hidden = false;
    if (source) this.media.src = source;
    else { this.player.hidden = true; }
  }

  add(prediction) {
    this.segments.push(prediction);
    this.faces.push(...(prediction.faces ?? []));
    this.#extend(prediction.end);
    const [best] = Object.entries(prediction.probabilities).sort((a, b) => b[1] - a[1]);
    const said = prediction.uncertain ? `uncertain: ${prediction.uncertain}` : prediction.labels.length ? prediction.labels.join(", ") : best ? `none over its threshold, most likely ${best[0]}` : "nothing to go on";
    const button = element("button", "segment", prediction.labels[0] ?? "–");
    button.type = "button";
    button.title = `${clock(prediction.start)} to ${clock(prediction.end)}: ${said}`;
    button.setAttribute("aria-label", button.title);
    button.tabIndex = this.segments.length === 1 ? 0 : -1;
    button.addEventListener("click", () => this.seek(prediction.start, prediction));
    this.strip.append(button);
    this.#place(button, prediction);
    for (const label of this.model.labels) {
      const value = prediction.probabilities[label];
      if (value === undefined) continue;
      const cell = element("div", prediction.labels.includes(label) ? "cell over" : "cell");
      cell.style.background = this.#colour(label);
      cell.style.opacity = 0.08 + 0.92 * value;
      cell.title = `${label} ${percent(value)}`;
      this.bands[label].append(cell);
      this.#place(cell, prediction);
    }
    if (this.segments.length === 1) this.show(this.media.currentTime, prediction);
  }

  seek(time, segment = null) {
    if (Number.isFinite(this.media.duration)) this.media.currentTime = Math.min(time + 1e-3, this.media.duration);
    this.show(time, segment);
  }

  // Bring playhead, face box and detail to a time; the segment that holds it unless one is given.
  show(time, segment = null) {
    if (this.duration) this.playhead.style.left = `${(100 * Math.min(time, this.duration)) / this.duration}%`;
    const box = this.media.videoWidth ? faceAt(this.faces, time) : null; // a codec may have sound only here
    this.box.hidden = box === null;
    if (box) {
      const [left, top, right, bottom] = box.map((value) => 100 * value);
      Object.assign(this.box.style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
    }
    const now = segment ?? this.segments.findLast((each) => each.start <= time && time < each.end) ?? this.current;
    if (now === this.current) return;
    this.current = now;
    const number = this.segments.indexOf(now);
    [...this.strip.querySelectorAll(".segment")].forEach((button, i) => {
      button.setAttribute("aria-current", String(i === number));
      button.tabIndex = i === number ? 0 : -1;
    });
    this.#describe(now);
  }

  #follow() {
    this.show(this.media.currentTime);
    if (!this.media.paused && !this.media.ended) requestAnimationFrame(() => this.#follow());
  }

  #arrow(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const buttons = [...this.strip.querySelectorAll(".segment")];
    const next = buttons[buttons.indexOf(document.activeElement) + (step ?? NaN)];
    if (!next) return;
    event.preventDefault();
    next.focus();
    next.click();
  }

  #band(name, className = "") {
    const band = element("div", `band ${className}`);
    const title = element("span", "name", name);
    title.title = name;
    band.append(title);
    this.timeline.append(band);
    return band;
  }

  #colour(label) {
    return PALETTE[this.model.labels.indexOf(label) % PALETTE.length];
  }

  // A later end makes the whole timeline longer: everything is placed again.
  #extend(end) {
    if (!Number.isFinite(end) || end <= this.duration) return;
    this.duration = end;
    for (const band of this.timeline.querySelectorAll(".band"))
      [...band.querySelectorAll(".cell, .segment")].forEach((each) => this.#position(each));
  }

  #place(node, { start, end }) {
    Object.assign(node.dataset, { start, end });
    this.#position(node);
  }

  #position(node) {
    node.style.left = `${(100 * node.dataset.start) / this.duration}%`;
    node.style.width = `${(100 * (node.dataset.end - node.dataset.start)) / this.duration}%`;
  }

  #legend() {
    const legend = element("p", "soft", "Cells: probability, outlined where it is over the label's threshold. Under each bar, what each modality added (right) or took away (left):");
    for (const [modality, colour] of Object.entries(MODALITY_COLOURS)) {
      const key = element("span", "key");
      key.style.background = colour;
      const named = element("span", "keys");
      named.append(key, modality);
      legend.append(" ", named);
    }
    return legend;
  }

  #describe(segment) {
    this.detail.replaceChildren();
    if (!segment) {
      this.detail.append(element("p", "soft", "Answers appear here as they come."));
      return;
    }
    const none = segment.uncertain ? "uncertain" : "no emotion over its threshold";
    const said = segment.labels.length ? segment.labels.join(", ") : none;
    this.detail.append(element("h2", "", said), element("p", "soft", `${clock(segment.start)} to ${clock(segment.end)}`));
    if (segment.uncertain) this.detail.append(element("p", "warn", segment.uncertain));
    if (segment.text) this.detail.append(element("blockquote", "", segment.text));
    const furthest = Math.max(1e-9, ...Object.values(segment.contributions).flatMap((part) => Object.values(part).map(Math.abs)));
    const table = element("table");
    for (const label of this.model.labels) {
      const value = segment.probabilities[label];
      if (value !== undefined) table.append(this.#labelRow(segment, label, value, furthest));
    }
    this.detail.append(table);
    if (segment.frames_seen) this.detail.append(element("p", "soft", `Faces: in ${segment.faces_found} of ${segment.frames_seen} frames`));
    const several = ["video", "audio"].filter((kind) => segment[`${kind}_tracks`] > 1);
    if (several.length) this.detail.append(element("p", "soft", `Tracks in the file: ${several.map((kind) => `${segment[`${kind}_tracks`]} ${kind}`).join(", ")}; one of each is read`));
    for (const [modality, why] of Object.entries(segment.left_out)) this.detail.append(element("p", "soft", `${modality} left out: ${why}`));
    if (segment.flags.length) this.detail.append(element("p", "warn", segment.flags.join(", ")));
  }

  #labelRow(segment, label, value, furthest) {
    const row = element("tr", segment.labels.includes(label) ? "over" : "");
    const name = element("th", "", label);
    name.scope = "row";
    const bars = element("td");
    const bar = element("div", "bar");
    const fill = element("div", "fill");
    fill.style.width = `${100 * value}%`;
    fill.style.background = this.#colour(label);
    const threshold = element("div", "threshold");
    const least = segment.thresholds?.[label] ?? this.model.thresholds[label];
    threshold.style.left = `${100 * least}%`;
    threshold.title = `threshold ${percent(least)}`;
    bar.append(fill, threshold);
    bars.append(bar, this.#parts(segment, label, furthest));
    row.append(name, bars, element("td", "number", percent(value)));
    return row;
  }

  // Contributions of the modalities to one logit: what speaks for the label to the right of the middle, what against to the left.
  #parts(segment, label, furthest) {
    const parts = element("div", "parts");
    const reach = { right: 0, left: 0 };
    const scale = 50 / (furthest * Math.max(1, Object.keys(segment.contributions).length));
    for (const [modality, byLabel] of Object.entries(segment.contributions)) {
      const value = byLabel[label];
      const width = Math.abs(value) * scale;
      const side = value >= 0 ? "right" : "left";
      const part = element("i");
      part.title = `${modality} ${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(2)}`;
      part.style.background = MODALITY_COLOURS[modality];
      part.style.width = `${width}%`;
      part.style.left = side === "right" ? `${50 + reach.right}%` : `${50 - reach.left - width}%`;
      reach[side] += width;
      parts.append(part);
    }
    parts.append(element("b"));
    return parts;
  }
}

function download(name, value) {
  const link = element("a");
  link.href = URL.createObjectURL(new Blob([JSON.stringify(value, null, 1)], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
