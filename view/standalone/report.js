// `mmx predict --html`: the answers that are in this file, one file at a time.
"use strict";

const report = JSON.parse(document.getElementById("report").textContent);
const at = (id) => document.getElementById(id);
let file = null;
let view = null;

// A file's name as a shell takes it for one word.
const quoted = (name) => (/^\w[\w.+-]*$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`);

function saveWords() {
  download(`${stem(file.name)}.vtt`, "text/vtt", webvtt(view.words.cues()));
}

function showFile(chosen) {
  file = chosen;
  at("title").textContent = file.name;
  view = new View(at("view"), report.model, {
    label: "Download the corrected words",
    hint: `Then: mmx predict BUNDLE ${quoted(file.name)} --transcript ${quoted(`${stem(file.name)}.vtt`)} --html OUT.html`,
    run: saveWords,
  });
  view.setMedia(file.media, file.name);
  file.segments.forEach((segment) => view.add(segment));
  view.finish();
  at("error").hidden = !file.error;
  at("error").textContent = file.error ?? "";
}

at("model").textContent = report.model.description;
at("warnings").replaceChildren(...report.model.warnings.map((each) => element("p", "banner", each)));
report.files.forEach((each, i) => at("which").append(new Option(each.name, i)));
at("which").addEventListener("change", () => showFile(report.files[at("which").value]));
at("choice").hidden = report.files.length < 2;
at("save").addEventListener("click", () => downloadJson("emotions.json", report.files.flatMap((each) => each.segments)));
at("subtitles").addEventListener("click", saveWords);
showFile(report.files[0]);
