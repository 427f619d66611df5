"use strict";
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
let setup = { fields: [], types: {}, examples: [] };
let picture = null; // a File or Blob
let shown = null; // the URL by which the page shows the picture of the result
let asking = null; // what stops the question that is out

// All that a post or a model says is put in as text, never as HTML.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function drawn(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function coloured(made, type) {
  const [hue, ring] = setup.types[type] ?? [0, 0];
  made.style.setProperty("--hue", hue);
  made.style.setProperty("--ring", ring);
  return made;
}

function tell(words, bad = false) {
  $("status").textContent = words;
  $("status").className = bad ? "bad" : "";
}

function choose(file) {
  picture = file;
  $("chosen").textContent = file ? `${file.name || "a picture"}, ${Math.ceil(file.size / 1024)} kB` : "None; a post can be read without one.";
  $("remove").hidden = !file;
  if (!file) $("file").value = "";
}

async function ask() {
  asking?.abort();
  const own = (asking = new AbortController());
  const asked = picture;
  const body = new FormData();
  body.append("text", $("text").value);
  if (asked) body.append("image", asked, "picture");
  if ($("threshold").value) body.append("threshold", $("threshold").value);
  if ($("last").value) {
    body.append("segments", $("last").value);
    body.append("masks", $("last").value === "masks");
  }
  tell("Reading the post …");
  const start = performance.now();
  try {
    const reply = await fetch("/v1/ground", { method: "POST", body, signal: own.signal });
    const answer = await reply.json();
    if (own !== asking) return;
    if (!reply.ok) return tell(answer.error.message, true);
    show(answer, asked, performance.now() - start);
    tell(`${answer.entities.length || "No"} ${answer.entities.length === 1 ? "entity" : "entities"}.`);
  } catch (error) {
    if (error.name !== "AbortError" && own === asking) tell("The server gave no answer; is it running, and the picture small enough?", true);
  }
}

function show(answer, asked, milliseconds) {
  $("result").hidden = false;
  $("said").replaceChildren(...marked(answer));
  const lit = showPicture(answer, asked);
  $("entities").replaceChildren(...answer.entities.map((entity, index) => listed(entity, lit[index])));
  $("knowledge").textContent = answer.knowledge && `Knowledge: ${answer.knowledge}`;
  $("errors").replaceChildren(...answer.errors.map((error) => element("li", {}, error)));
  const { waited, took, together } = answer.times;
  const company = together > 1 ? `, together with ${together - 1} more` : "";
  $("times").textContent = `Waited ${waited.toFixed(2)} s; answered in ${took.toFixed(2)} s${company}; here after ${(milliseconds / 1000).toFixed(2)} s.`;
  $("raw").textContent = answer.raw;
  $("result").focus({ preventScroll: true });
  $("result").scrollIntoView({ block: "nearest" });
}

// The text with its entities marked. Places are in code points, as Python counts them.
function marked(answer) {
  const letters = [...answer.text];
  const found = answer.entities.filter((entity) => entity.characters).sort((one, other) => one.characters[0] - other.characters[0]);
  const parts = [];
  let at = 0;
  for (const { characters: [start, end], type } of found) {
    if (start < at) continue;
    parts.push(letters.slice(at, start).join(""));
    const name = coloured(element("mark", { class: "named", title: type }, letters.slice(start, end).join("")), type);
    parts.push(name);
    at = end;
  }
  return [...parts, letters.slice(at).join("")];
}

// Gives for each entity its group of boxes.
function showPicture(answer, asked) {
  if (shown) URL.revokeObjectURL(shown);
  shown = asked && answer.size ? URL.createObjectURL(asked) : null;
  document.querySelector(".beside").classList.toggle("pictured", Boolean(shown));
  if (!shown) {
    $("picture").replaceChildren();
    return [];
  }
  const [width, height] = answer.size;
  const visible = answer.entities.filter((entity) => entity.boxes.length).map((entity) => entity.text);
  const image = element("img", { src: shown, alt: `The post's picture, with boxes around: ${visible.join(", ") || "nothing"}` });
  const letter = Math.max(width, height) / 26;
  const groups = answer.entities.map((entity) => coloured(drawn("g", {}, ...entity.boxes.flatMap((box) => boxed(box, entity, letter))), entity.type));
  const layer = drawn("svg", { viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, ...groups);
  $("picture").replaceChildren(image, ...maskLayer(answer), layer);
  return groups;
}

function boxed(box, entity, letter) {
  const place = { x: box.xmin, y: box.ymin, width: Math.max(0, box.xmax - box.xmin), height: Math.max(0, box.ymax - box.ymin) };
  const name = drawn("text", { x: box.xmin + letter / 4, y: Math.max(letter, box.ymin + letter * 1.1), "font-size": letter }, entity.text);
  return [drawn("rect", { ...place, class: "back" }), drawn("rect", place), name];
}

function maskLayer(answer) {
  const masks = answer.entities.flatMap((entity) => entity.masks.map((mask) => ({ mask, hue: (setup.types[entity.type] ?? [0])[0] })));
  if (!masks.length) return [];
  const [width, height] = answer.size;
  const layer = element("canvas", { width, height, "aria-hidden": "true" });
  const brush = layer.getContext("2d");
  for (const { mask, hue } of masks) {
    brush.fillStyle = `oklch(.62 .22 ${hue} / .45)`;
    let at = 0;
    runs(mask.counts).forEach((length, index) => {
      for (let left = index % 2 ? length : 0, from = at; left > 0; ) { // columns from left to right, each downwards
        const part = Math.min(left, height - (from % height));
        brush.fillRect(Math.floor(from / height), from % height, 1, part);
        from += part;
        left -= part;
      }
      at += length;
    });
  }
  return [layer];
}

// COCO's compressed run lengths: five bits a letter, the sixth says that more follow; from the fourth on, differences.
function runs(counts) {
  const found = [];
  for (let at = 0; at < counts.length; ) {
    let value = 0, shift = 0, letter;
    do {
      letter = counts.charCodeAt(at++) - 48;
      value |= (letter & 31) << shift;
      shift += 5;
    } while (letter & 32);
    if (letter & 16) value |= -1 << shift;
    found.push(found.length > 2 ? value + found[found.length - 2] : value);
  }
  return found;
}

function listed(entity, group) {
  const type = coloured(element("span", { class: "type" }, entity.type), entity.type);
  const made = element("li", { class: "entity", tabindex: 0 }, element("strong", { dir: "auto" }, entity.text), type);
  if (entity.visible !== null) {
    const sure = entity.visible_score === null ? "" : `, probability ${entity.visible_score.toFixed(2)}`;
    made.append(element("div", { class: entity.visible ? "good" : "faint" }, `${entity.visible ? "in the picture" : "not in the picture"}${sure}`));
  }
  if (entity.expression) made.append(element("div", { dir: "auto" }, entity.expression));
  for (const box of entity.boxes) {
    made.append(element("div", { class: "faint" }, `box ${[box.xmin, box.ymin, box.xmax, box.ymax].map(Math.round).join(", ")}`));
  }
  const light = (on) => group?.classList.toggle("lit", on);
  for (const [event, on] of [["mouseenter", true], ["focus", true], ["mouseleave", false], ["blur", false]]) made.addEventListener(event, () => light(on));
  return made;
}

async function tryExample(example) {
  try {
    const reply = await fetch(example.picture);
    choose(new File([await reply.blob()], "example.jpg", { type: "image/jpeg" }));
  } catch {
    return tell("The server gave no answer; is it running?", true);
  }
  $("text").value = example.text;
  await ask();
}

async function begin() {
  setup = await (await fetch("/page/setup.json")).json();
  $("about").textContent = `${setup.model}: fills ${setup.fields.join(", ")}.`;
  $("last").replaceChildren(element("option", { value: "" }, "all"), ...setup.fields.map((field) => element("option", { value: field }, field)));
  $("list").replaceChildren(...setup.examples.map((example) => {
    const button = element("button", { type: "button" }, element("img", { src: example.picture, alt: "" }), element("span", { dir: "auto" }, example.text));
    button.addEventListener("click", () => tryExample(example));
    return element("li", {}, button);
  }));
  $("examples").hidden = !setup.examples.length;
}

const fileOf = (data) => [...(data?.files ?? [])].find((file) => file.type.startsWith("image/"));
$("form").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
$("text").addEventListener("keydown", (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); ask(); } });
$("file").addEventListener("change", () => choose($("file").files[0] ?? null));
$("remove").addEventListener("click", () => { choose(null); $("file").focus(); });
document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").classList.add("over"); });
document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").classList.remove("over");
  const file = fileOf(event.dataTransfer);
  if (file) choose(file);
  else tell("What was dropped is no picture.", true);
});
document.addEventListener("paste", (event) => { const file = fileOf(event.clipboardData); if (file) choose(file); });
begin().catch(() => tell("The server gave no answer; is it running?", true));
