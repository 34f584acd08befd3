// The view of one file's answers: player with face boxes, timeline, the segment under the playhead in detail, its words.
// Shared by the server's page and by `mmx predict --html`.
"use strict";

const FACE_HELD_S = 0.3; // a box is shown this long around the frame it was found in, and between two frames of one stretch
const FACE_GAP_S = 1.1;

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
  // root: where it goes. model: {labels, thresholds: {label: number}, modalities}. send: see Words.
  constructor(root, model, send) {
    this.model = model;
    this.segments = [];
    this.faces = [];
    this.current = null;
    this.finished = false;
    root.replaceChildren();

    this.player = element("div", "player");
    this.media = element("video");
    this.media.controls = true;
    this.media.playsInline = true;
    this.box = element("div", "face");
    this.box.hidden = true;
    this.player.append(this.media, this.box);
    this.cannotPlay = element("p", "warn", "This browser cannot play this file; the answers still stand.");
    this.cannotPlay.hidden = true;
    const left = element("div", "left");
    left.append(this.player, this.cannotPlay);

    this.timeline = new Timeline(model.labels, (time, segment) => this.seek(time, segment));
    this.detail = new Detail(model);
    this.words = new Words((time, segment) => this.seek(time, segment), send);
    const stage = element("div", "stage");
    stage.append(left, this.timeline.root, this.detail.root, this.words.root);
    root.append(stage);

    this.media.addEventListener("loadedmetadata", () => {
      this.player.classList.toggle("sound", this.media.videoWidth === 0);
      this.timeline.extend(this.media.duration);
      if (this.finished) this.timeline.finish();
      this.show(this.media.currentTime);
    });
    this.media.addEventListener("error", () => { this.cannotPlay.hidden = false; this.player.hidden = true; });
    for (const event of ["timeupdate", "seeked"]) this.media.addEventListener(event, () => this.show(this.media.currentTime));
    this.media.addEventListener("play", () => this.#follow());
  }

  setMedia(source, name = "") {
    this.cannotPlay.hidden = true;
    this.player.hidden = !source;
    this.media.setAttribute("aria-label", name);
    if (source) this.media.src = source;
  }

  add(prediction) {
    this.segments.push(prediction);
    this.faces.push(...(prediction.faces ?? []));
    this.timeline.add(prediction);
    this.words.add(prediction);
    if (this.segments.length === 1) this.show(this.media.currentTime, prediction);
  }

  // All segments are there.
  finish() {
    this.finished = true;
    this.timeline.finish();
  }

  // A segment was predicted again with other words; everything else of it stays.
  replace(old, prediction) {
    this.segments[this.segments.indexOf(old)] = prediction;
    this.timeline.clear();
    this.segments.forEach((each) => this.timeline.add(each));
    this.timeline.finish();
    this.words.replace(old, prediction);
    this.current = null;
    this.seek(prediction.start, prediction);
  }

  seek(time, segment = null) {
    if (Number.isFinite(this.media.duration)) this.media.currentTime = Math.min(time + 1e-3, this.media.duration);
    this.show(time, segment);
  }

  // Bring playhead, face box, words and detail to a time; the segment that holds it unless one is given.
  show(time, segment = null) {
    const box = this.media.videoWidth ? faceAt(this.faces, time) : null; // a codec may have sound only here
    this.box.hidden = box === null;
    if (box) {
      const [left, top, right, bottom] = box.map((value) => 100 * value);
      Object.assign(this.box.style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
    }
    const now = segment ?? this.segments.findLast((each) => each.start <= time && time < each.end) ?? this.current;
    this.timeline.mark(time, now);
    this.words.mark(time, now);
    if (now === this.current) return;
    this.current = now;
    this.detail.describe(now);
  }

  #follow() {
    this.show(this.media.currentTime);
    if (!this.media.paused && !this.media.ended) requestAnimationFrame(() => this.#follow());
  }
}
