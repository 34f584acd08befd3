// One segment in detail: its labels, how the modalities come to them, and what to know about it.
"use strict";

class Detail {
  constructor(model) {
    this.model = model;
    this.root = element("section", "detail");
    this.root.setAttribute("aria-label", "The segment in detail");
    this.describe(null);
  }

  describe(segment) {
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
