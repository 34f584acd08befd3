// Boxes around the faces in the player: those that answers use, and other people's; with their numbers where there are several.
"use strict";

const FACE_HELD_S = 0.3; // a box is shown this long around the frame it was found in, and between two frames of one stretch
const FACE_GAP_S = 1.1;

// The box of one person at a time: between two frames of one stretch it moves in a straight line.
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

class FaceBoxes {
  // player: the element over whose picture they are drawn.
  constructor(player) {
    this.player = player;
    this.people = new Map(); // "person, used or not" -> {node, person, faces in order of time}
  }

  add(prediction) {
    for (const face of prediction.others ?? []) this.#of(face.person, false).push(face);
    for (const face of prediction.faces ?? []) this.#of(face.person, true).push(face);
    const several = new Set([...this.people.values()].map((each) => each.person)).size > 1;
    for (const { node, person } of this.people.values()) node.textContent = several && person ? String(person) : "";
  }

  // person: whose box stands out; null: nobody's.
  show(time, person, hidden) {
    for (const each of this.people.values()) {
      const box = hidden ? null : faceAt(each.faces, time);
      each.node.hidden = box === null;
      each.node.classList.toggle("now", person !== null && each.person === person);
      if (!box) continue;
      const [left, top, right, bottom] = box.map((value) => 100 * value);
      Object.assign(each.node.style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
    }
  }

  #of(person, used) {
    const key = `${person} ${used}`;
    if (!this.people.has(key)) {
      const node = element("div", used ? "face" : "face other");
      node.hidden = true;
      if (used) this.player.append(node);
      else this.player.querySelector("video").after(node); // below the boxes that are used
      this.people.set(key, { node, person, faces: [] });
    }
    return this.people.get(key).faces;
  }
}
