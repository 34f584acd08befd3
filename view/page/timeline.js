// The labels over time: a strip of segments to go from one to the next, and a band for each label.
"use strict";

const TICK_STEPS_S = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600];
const MOST_TICKS = 8;
const LAST_TICK = 0.93; // of the width: its text needs the rest
const SHORTEST_GAP_S = 0.3; // tracks end a little apart

class Timeline {
  // seek(time, segment): called where the user goes to.
  constructor(labels, seek) {
    this.labels = labels;
    this.seek = seek;
    this.duration = 0;
    this.segments = [];
    this.people = []; // whose answers have rows of their own, in the order of the rows
    this.root = element("section", "timeline");
    this.root.setAttribute("aria-label", "Emotions over time");
    this.axis = element("div", "axis");
    this.axis.setAttribute("aria-hidden", "true");
    this.area = element("div", "area");
    this.strip = this.#band("label", "segments");
    this.strip.setAttribute("role", "toolbar");
    this.strip.setAttribute("aria-label", "Segments; the left and right arrow keys, Home and End go from one to another");
    this.bands = Object.fromEntries(labels.map((label) => [label, this.#band(label)]));
    this.playhead = element("div", "playhead");
    this.area.append(this.playhead);
    this.gaps = element("p", "soft");
    this.gaps.hidden = true;
    this.root.append(this.axis, this.area, this.gaps);
    this.area.addEventListener("click", (event) => {
      if (event.target.closest(".segment") || !this.duration) return;
      const box = this.area.getBoundingClientRect();
      this.seek(((event.clientX - box.left) / box.width) * this.duration);
    });
    this.strip.addEventListener("keydown", (event) => this.#key(event));
  }

  // A later end makes the whole timeline longer: everything is placed again.
  extend(end) {
    if (!Number.isFinite(end) || end <= this.duration) return;
    this.duration = end;
    for (const node of this.area.querySelectorAll(".cell, .segment, .gap")) this.#position(node);
    this.#ticks();
  }

  add(prediction) {
    this.segments.push(prediction);
    this.extend(prediction.end);
    this.#makeRows(prediction);
    const short = prediction.labels[0] ?? (prediction.uncertain ? "?" : "–");
    const made = button(short, "segment", () => this.seek(prediction.start, prediction));
    const best = mostProbable(prediction);
    const near = prediction.labels.length || !best ? "" : `, most likely ${best}`;
    made.title = `${whose(prediction, this.people)}${from(prediction)}: ${headline(prediction)}${near}`;
    made.setAttribute("aria-label", made.title);
    made.tabIndex = this.segments.length === 1 ? 0 : -1;
    this.strip.append(made);
    this.#place(made, prediction);
    for (const [number, label] of this.labels.entries()) {
      const value = prediction.probabilities[label];
      if (value === undefined) continue;
      const cell = element("div", prediction.labels.includes(label) ? "cell over" : "cell");
      cell.style.background = `color-mix(in srgb, ${LABEL_COLOURS[number % LABEL_COLOURS.length]} ${100 * (0.08 + 0.92 * value)}%, transparent)`;
      cell.title = `${label} ${percent(value)}`;
      this.bands[label].append(cell);
      this.#place(cell, prediction);
    }
  }

  clear() {
    this.segments = [];
    for (const node of this.area.querySelectorAll(".cell, .segment")) node.remove();
  }

  // All segments are there: show what none of them covers.
  finish() {
    let end = 0;
    let missing = 0;
    for (const node of this.area.querySelectorAll(".gap")) node.remove();
    const inOrder = this.segments.toSorted((a, b) => a.start - b.start);
    for (const { start, end: stop } of [...inOrder, { start: this.duration, end: this.duration }]) {
      if (start - end > SHORTEST_GAP_S) {
        const gap = element("div", "gap");
        gap.title = `${from({ start: end, end: start })}: not predicted`;
        this.area.prepend(gap);
        this.#place(gap, { start: end, end: start });
        missing += start - end;
      }
      end = Math.max(end, stop);
    }
    this.gaps.hidden = !missing;
    this.gaps.textContent = `Hatched: ${missing.toFixed(1)} s of ${clock(this.duration)} were not predicted, because no segment covers it.`;
  }

  mark(time, segment) {
    if (this.duration) this.playhead.style.left = `${(100 * Math.min(time, this.duration)) / this.duration}%`;
    const current = this.segments.indexOf(segment);
    this.#buttons().forEach((each, i) => {
      if (each.getAttribute("aria-current") === String(i === current)) return;
      each.setAttribute("aria-current", String(i === current));
      each.tabIndex = i === Math.max(current, 0) ? 0 : -1;
    });
  }

  #buttons() {
    return [...this.strip.querySelectorAll(".segment")];
  }

  #key(event) {
    const buttons = this.#buttons();
    const here = buttons.indexOf(document.activeElement);
    const next = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (!buttons[next]) return;
    event.preventDefault();
    buttons[next].focus();
    buttons[next].click();
  }

  #band(name, className = "") {
    const band = element("div", `band ${className}`);
    const title = element("span", "name", name);
    title.title = name;
    band.append(title);
    this.area.append(band);
    return band;
  }

  #ticks() {
    const step = TICK_STEPS_S.find((each) => this.duration / each <= MOST_TICKS) ?? this.duration;
    this.axis.replaceChildren();
    for (let time = 0; time <= LAST_TICK * this.duration; time += step) {
      const tick = element("span", "tick", clock(time, step < 1 ? 1 : 0));
      tick.style.left = `${(100 * time) / this.duration}%`;
      this.axis.append(tick);
    }
  }

  // Several people have an answer for the same segment: each gets a row in every band.
  #makeRows({ start, end, person }) {
    const mine = this.segments.filter((each) => each.start === start && each.end === end).map((each) => each.person);
    if (mine.length < 2 && !this.people.length) return;
    const people = [...new Set([...this.people, ...mine, person])].sort((a, b) => a - b);
    if (people.length === this.people.length) return;
    this.people = people;
    this.area.style.setProperty("--rows", people.length);
    for (const node of this.area.querySelectorAll(".cell, .segment")) this.#position(node);
  }

  #place(node, { start, end, person }) {
    Object.assign(node.dataset, { start, end, person: person ?? "" });
    this.#position(node);
  }

  #position(node) {
    node.style.left = `${(100 * node.dataset.start) / this.duration}%`;
    node.style.width = `${(100 * (node.dataset.end - node.dataset.start)) / this.duration}%`;
    const row = this.people.indexOf(Number(node.dataset.person));
    if (row < 0) return;
    node.style.top = `${(100 * row) / this.people.length}%`;
    node.style.height = `calc(${100 / this.people.length}% - .15rem)`;
    if (node.classList.contains("segment")) node.dataset.number = this.people[row];
  }
}
