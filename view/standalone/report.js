// `mmx predict --html`: the answers that are in this file, one file at a time.
"use strict";

const report = JSON.parse(document.getElementById("report").textContent);
document.getElementById("model").textContent = report.model.description;

function showFile(file) {
  const view = new View(document.getElementById("view"), report.model);
  view.setMedia(file.media);
  file.segments.forEach((segment) => view.add(segment));
  const error = document.getElementById("error");
  error.hidden = !file.error;
  error.textContent = file.error ?? "";
}

const which = document.getElementById("which");
report.files.forEach((file, i) => which.append(new Option(file.name, i)));
which.addEventListener("change", () => showFile(report.files[which.value]));
document.getElementById("choice").hidden = report.files.length < 2;
document.getElementById("save").addEventListener("click", () => download("emotions.json", report.files.flatMap((file) => file.segments)));
showFile(report.files[0]);
