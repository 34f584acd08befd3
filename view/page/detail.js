// One segment in detail: its labels, how the modalities come to them, and what to know about it.
"use strict";

class Detail {
  // show(segment): called where the user chooses another person.
  constructor(model, show) {
    this.model = model;
    this.show = show;
    this.root = element("section", "detail");
    this.root.setAttribute("aria-label", "The segment in detail");
    this.describe(null);
  }

  // everybody: the answers of all people for this segment, its own among them.
  describe(segment, everybody = []) {
    this.root.replaceChildren();
    if (!segment) {
      this.root.append(element("p", "soft", "Answers appear here as they come."));
      return;
    }
    const about = segment.person && segment.quality?.people > 1 ? `Person ${segment.person}: ` : "";
    this.root.append(element("h3", "", about + headline(segment)), element("p", "soft", from(segment)));
    if (segment.uncertain) this.root.append(element("p", "warn", segment.uncertain));
    if (segment.text) this.root.append(element("blockquote", "", segment.text));
    const furthest = Math.max(1e-9, ...Object.values(segment.contributions).flatMap((part) => Object.values(part).map(Math.abs)));
    const table = element("table");
    table.append(element("caption", "unseen", `Probabilities, ${from(segment)}`));
    for (const label of this.model.labels) {
      const value = segment.probabilities[label];
      if (value !== undefined) table.append(this.#row(segment, label, value, furthest));
    }
    this.root.append(table);
    if (Object.keys(segment.contributions).length) this.root.append(this.#legend());
    if (everybody.length > 1) this.root.append(this.#comparison(segment, everybody));
    const notes = element("ul", "notes");
    if (segment.frames_seen) notes.append(element("li", "", `A face was found in ${segment.faces_found} of ${segment.frames_seen} frames.`));
    if (segment.quality?.people > 1) notes.append(element("li", "", `${segment.quality.people} people are seen here.`));
    if (segment.quality?.face_switches) notes.append(element("li", "", `The face that is used changes ${segment.quality.face_switches} times.`));
    const tracks = ["video", "audio"].filter((kind) => segment[`${kind}_tracks`] > 1).map((kind) => `${segment[`${kind}_tracks`]} ${kind}`);
    if (tracks.length) notes.append(element("li", "", `The file has ${tracks.join(" and ")} tracks; one of each is read.`));
    for (const [modality, why] of Object.entries(segment.left_out)) notes.append(element("li", "", `${modality} left out: ${why}`));
    for (const flag of segment.flags) notes.append(element("li", "flag", explain(flag)));
    if (notes.children.length) this.root.append(notes);
  }

  #row(segment, label, value, furthest) {
    const over = segment.labels.includes(label);
    const row = element("tr", over ? "over" : "");
    const name = element("th", "", label);
    name.scope = "row";
    const bars = element("td");
    const bar = element("div", "bar");
    const fill = element("div", "fill");
    fill.style.width = `${100 * value}%`;
    fill.style.background = LABEL_COLOURS[this.model.labels.indexOf(label) % LABEL_COLOURS.length];
    const threshold = element("div", "threshold");
    const least = segment.thresholds?.[label] ?? this.model.thresholds[label];
    threshold.style.left = `${100 * least}%`;
    threshold.title = `threshold ${percent(least)}`;
    bar.append(fill, threshold);
    bars.append(bar, this.#parts(segment, label, furthest));
    const number = element("td", "number", percent(value));
    if (over) number.append(element("span", "unseen", `, over its threshold of ${percent(least)}`));
    row.append(name, bars, number);
    return row;
  }

  // The same moment, person by person; the head of a column leads to that person.
  #comparison(segment, everybody) {
    const table = element("table", "comparison");
    table.append(element("caption", "", "The same moment, person by person"));
    const head = element("tr");
    head.append(element("td"));
    for (const each of everybody) {
      const cell = element("th");
      cell.scope = "col";
      const choose = button(`Person ${each.person}`, "small", () => {
        this.show(each);
        this.root.querySelector('.comparison [aria-pressed="true"]').focus();
      });
      choose.setAttribute("aria-pressed", String(each === segment));
      cell.append(choose);
      head.append(cell);
    }
    table.append(head);
    for (const label of this.model.labels) {
      const row = element("tr");
      const name = element("th", "", label);
      name.scope = "row";
      row.append(name);
      for (const each of everybody) {
        const value = each.probabilities[label];
        const cell = element("td", each.labels.includes(label) ? "over" : "", value === undefined ? "–" : percent(value));
        if (each.labels.includes(label)) cell.append(element("span", "unseen", ", over its threshold"));
        const colour = LABEL_COLOURS[this.model.labels.indexOf(label) % LABEL_COLOURS.length];
        if (value !== undefined) cell.style.backgroundImage = `linear-gradient(90deg, color-mix(in srgb, ${colour} 45%, transparent) ${100 * value}%, transparent 0)`;
        row.append(cell);
      }
      table.append(row);
    }
    const box = element("div", "wide"); // many people scroll to the side
    box.append(table);
    return box;
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
      const part = element("i", `by-${modality}`);
      part.title = `${modality} ${value >= 0 ? "+" : "−"}${Math.abs(value).toFixed(2)}`;
      part.style.width = `${width}%`;
      part.style.left = side === "right" ? `${50 + reach.right}%` : `${50 - reach.left - width}%`;
      reach[side] += width;
      parts.append(part);
    }
    parts.append(element("b"));
    return parts;
  }

  #legend() {
    const legend = element("p", "soft", "The line on a bar is its threshold. Below it, what speaks for the label (right) or against it (left):");
    for (const modality of MODALITIES.filter((each) => this.model.modalities?.includes(each) ?? true)) {
      const named = element("span", "keys");
      named.append(element("i", `key by-${modality}`), modality);
      legend.append(" ", named);
    }
    return legend;
  }
}
