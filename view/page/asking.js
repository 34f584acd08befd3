// One request to the server: a form goes up, and each prediction is handed out as it comes.
"use strict";

function problem(status, text) {
  try {
    const { message, hint } = JSON.parse(text).error;
    return `${message}${hint ? `; ${hint}` : ""}`;
  } catch {
    return `the server answered ${status}`;
  }
}

// XMLHttpRequest, because fetch does not say how much of the form has been sent.
// on: {sent(share), prediction(segment)}. Resolves when the answer is whole; rejects with an Error that says why not.
function predict(form, key, signal, on) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    let read = 0;
    let whole = false;
    let fault = null;

    function take() {
      if (request.status !== 200) return;
      for (let end; (end = request.responseText.indexOf("\n", read)) >= 0; read = end + 1) {
        const line = JSON.parse(request.responseText.slice(read, end));
        if (line.error) fault ??= problem(200, JSON.stringify(line));
        else if (typeof line.end === "object") whole = true; // a segment has its end in seconds there
        else on.prediction(line);
      }
    }

    request.upload.addEventListener("progress", (event) => event.lengthComputable && on.sent(event.loaded / event.total));
    request.upload.addEventListener("load", () => on.sent(1));
    request.addEventListener("progress", take);
    request.addEventListener("load", () => {
      take();
      if (request.status !== 200) reject(Object.assign(new Error(problem(request.status, request.responseText)), { status: request.status }));
      else if (fault) reject(new Error(fault));
      else if (!whole) reject(new Error("the response was cut off"));
      else resolve();
    });
    request.addEventListener("error", () => reject(new Error("the server cannot be reached, or the connection broke")));
    request.addEventListener("abort", () => reject(new Error("Cancelled")));
    signal.addEventListener("abort", () => request.abort());
    request.open("POST", "v1/predict");
    request.setRequestHeader("Accept", "application/x-ndjson");
    if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
    request.send(form);
  });
}
