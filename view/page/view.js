// The view of one file's answers: player with face boxes, timeline, the segment under the playhead in detail, its words.
// Shared by the server's page and by `mmx predict --html`.
"use strict";

class View {
  // root: where it goes. model: {labels, thresholds: {label: number}, modalities}. send: see Words.
  constructor(root, model, send) {
    this.model = model;
    this.segments = [];
    this.current = null;
    this.finished = false;
    root.replaceChildren();

    this.player = element("div", "player");
    this.media = element("video");
    this.media.controls = true;
    this.media.playsInline = true;
    this.player.append(this.media);
    this.boxes = new FaceBoxes(this.player);
    this.cannotPlay = element("p", "warn", "This browser cannot play this file; the answers still stand.");
    this.cannotPlay.hidden = true;
    const left = element("div", "left");
    left.append(this.player, this.cannotPlay);

    this.timeline = new Timeline(model.labels, (time, segment) => this.seek(time, segment));
    this.detail = new Detail(model, (segment) => this.show(this.media.currentTime, segment));
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
    this.boxes.add(prediction);
    this.timeline.add(prediction);
    if (this.#first(prediction) === prediction) this.words.add(prediction); // of several people's answers, once
    if (this.segments.length === 1) this.show(this.media.currentTime, prediction);
    else if (this.#sameMoment(this.current).includes(prediction)) this.#describe(); // one more person's
  }

  // All segments are there.
  finish() {
    this.finished = true;
    this.timeline.finish();
  }

  // A segment was predicted again with other words; everything else of it stays.
  replace(old, prediction) {
    const hadWords = this.#first(old) === old;
    this.segments[this.segments.indexOf(old)] = prediction;
    this.timeline.clear();
    this.segments.forEach((each) => this.timeline.add(each));
    this.timeline.finish();
    if (hadWords) this.words.replace(old, prediction);
    this.current = null;
    this.seek(prediction.start, prediction);
  }

  seek(time, segment = null) {
    if (Number.isFinite(this.media.duration)) this.media.currentTime = Math.min(time + 1e-3, this.media.duration);
    this.show(time, segment);
  }

  // Bring playhead, face box, words and detail to a time; the segment that holds it unless one is given.
  show(time, segment = null) {
    const now = segment ?? this.#at(time) ?? this.current;
    this.boxes.show(time, now?.person ?? null, !this.media.videoWidth); // a codec may have sound only here
    this.timeline.mark(time, now);
    this.words.mark(time, this.#first(now));
    if (now === this.current) return;
    this.current = now;
    this.#describe();
  }

  // The segment that holds a time: the current person's, if each person has one.
  #at(time) {
    const holds = (each) => each.start <= time && time < each.end;
    return this.segments.findLast((each) => holds(each) && each.person === this.current?.person) ?? this.segments.findLast(holds);
  }

  // Everybody's answers for the same segment.
  #sameMoment(segment) {
    return segment ? this.segments.filter((each) => each.start === segment.start && each.end === segment.end) : [];
  }

  #first(segment) {
    return this.#sameMoment(segment)[0];
  }

  #describe() {
    this.detail.describe(this.current, this.#sameMoment(this.current));
  }

  #follow() {
    this.show(this.media.currentTime);
    if (!this.media.paused && !this.media.ended) requestAnimationFrame(() => this.#follow());
  }
}
