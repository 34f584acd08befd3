// What is said, segment by segment: words as they are spoken, where they come from, and corrections of them.
"use strict";

class Words {
  // seek(time, segment). send: {label, hint, run(corrections)}: what is done with corrected segments, [{segment, text}].
  constructor(seek, send) {
    this.seek = seek;
    this.send = send;
    this.rows = new Map(); // segment -> its row, in order of time
    this.texts = new Map(); // segment -> its corrected text, until that is predicted
    this.corrected = new WeakSet(); // segments that were predicted with corrected text
    this.lit = null; // the row that is being said
    this.root = element("section", "words");
    this.root.setAttribute("aria-label", "What is said");
    this.source = element("p", "soft");
    this.list = element("ol");
    this.again = button("", "main", () => this.#send());
    this.hint = element("p", "soft");
    this.actions = element("div", "row");
    this.actions.append(this.again, this.hint);
    this.root.append(element("h3", "", "What is said"), this.source, this.list, this.actions);
    this.root.hidden = true;
    this.#count();
  }

  add(segment, after = null) {
    const row = element("li");
    this.rows.set(segment, row);
    if (after) after.replaceWith(row);
    else this.list.append(row);
    this.#show(segment);
    this.root.hidden = false;
    if (segment.recogniser) {
      const sure = segment.language ? `, language ${segment.language} (${percent(segment.language_probability ?? 0)})` : "";
      this.source.textContent = `Recognised by ${segment.recogniser}${sure}; underlined where it is not sure. Please correct what is wrong.`;
    }
  }

  // A segment was predicted again with corrected text.
  replace(old, segment) {
    const row = this.rows.get(old);
    this.rows = new Map([...this.rows].map(([key, value]) => (key === old ? [segment, value] : [key, value])));
    this.texts.delete(old);
    this.corrected.add(segment);
    this.add(segment, row);
    this.#count();
  }

  // Light up what is being said at a time.
  mark(time, segment) {
    const row = this.rows.get(segment) ?? null;
    if (row !== this.lit) {
      this.lit?.removeAttribute("aria-current");
      for (const word of this.lit?.querySelectorAll(".now") ?? []) word.classList.remove("now");
      row?.setAttribute("aria-current", "true");
      if (row) this.#bringIntoView(row);
      this.lit = row;
    }
    for (const word of row?.querySelectorAll(".word") ?? [])
      word.classList.toggle("now", word.dataset.start <= time && time < word.dataset.end);
  }

  cues() {
    return [...this.rows.keys()].map((segment) => ({ start: segment.start, end: segment.end, text: this.#text(segment) }));
  }

  #text(segment) {
    return this.texts.get(segment) ?? segment.text ?? "";
  }

  #bringIntoView(row) {
    const { top, bottom } = this.list.getBoundingClientRect();
    const box = row.getBoundingClientRect();
    if (box.top < top) this.list.scrollTop -= top - box.top;
    else if (box.bottom > bottom) this.list.scrollTop += box.bottom - bottom;
  }

  #show(segment) {
    const row = this.rows.get(segment);
    row.replaceChildren();
    const when = button(clock(segment.start), "time", () => this.seek(segment.start, segment));
    when.setAttribute("aria-label", `Go to ${from(segment)}`);
    const said = element("p", "said");
    const changed = this.texts.has(segment);
    const text = this.#text(segment);
    if (segment.words?.length && !changed) for (const word of segment.words) said.append(this.#word(word, segment), " ");
    else said.append(text || element("em", "soft", changed ? "nothing" : "no words"));
    const origin = changed ? "corrected, not predicted yet" : this.corrected.has(segment) ? "corrected" : segment.words?.length ? "recognised" : text ? "given" : "";
    const edit = button(text ? "Correct" : "Add words", "small", () => this.#edit(segment));
    edit.setAttribute("aria-label", `${edit.textContent}, ${from(segment)}`);
    row.append(when, said, element("span", `tag ${origin.split(",")[0]}`, origin), edit);
  }

  #word(word, segment) {
    const made = element("span", word.probability < DOUBTFUL ? "word doubtful" : "word", word.text);
    made.title = `${clock(word.start, 2)} to ${clock(word.end, 2)}, ${percent(word.probability)}`;
    Object.assign(made.dataset, { start: word.start, end: word.end });
    made.addEventListener("click", () => this.seek(word.start, segment));
    return made;
  }

  #edit(segment) {
    const row = this.rows.get(segment);
    const field = element("textarea");
    field.value = this.#text(segment);
    field.rows = 2;
    field.setAttribute("aria-label", `What is said, ${from(segment)}`);
    const done = (keep) => {
      const text = field.value.trim().replace(/\s+/g, " ");
      if (keep && text !== (segment.text ?? "")) this.texts.set(segment, text);
      else if (keep) this.texts.delete(segment);
      this.#show(segment);
      this.#count();
      row.querySelector("button.small").focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== "Escape") return;
      event.preventDefault();
      done(event.key === "Enter");
    });
    const buttons = element("span", "row");
    buttons.append(button("Keep", "small", () => done(true)), button("Undo", "small", () => done(false)));
    row.replaceChildren(row.firstChild, field, buttons);
    field.focus();
  }

  #count() {
    const count = this.texts.size;
    this.actions.hidden = !count;
    this.again.textContent = `${this.send.label} (${count === 1 ? "1 correction" : `${count} corrections`})`;
    this.hint.textContent = this.send.hint;
  }

  async #send() {
    this.again.disabled = true;
    try {
      await this.send.run([...this.texts].map(([segment, text]) => ({ segment, text })).sort((a, b) => a.segment.start - b.segment.start));
    } finally {
      this.again.disabled = false;
      this.lit?.querySelector("button.small")?.focus(); // the focus was on what is hidden now
    }
  }
}
