"use strict";
// What a post looks like. All that came with a post is set as text; nothing here makes markup from strings.
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const SIDES = ["a", "b"].slice(0, data.systems.length);
const PER_PAGE = 12;
const spaced = (outcome) => outcome.replaceAll("_", " ");
const percent = (value) => (100 * value).toFixed(1);
const COLOURS = new Map(data.types.map(([type, ...colour]) => [type, colour]));

function make(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key in element) element[key] = value;
    else element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

// A word with its explanation, as the macro "term" makes it.
const term = (words, about, properties = {}) => {
  const element = make("span", { tabIndex: 0, ...properties }, words, make("span", { className: "about", role: "tooltip" }, about));
  element.classList.add("term");
  return element;
};

function coloured(element, type) {
  const [hue, ring] = COLOURS.get(type);
  element.style.setProperty("--hue", hue);
  element.style.setProperty("--ring", ring);
  return element;
}

function draw(name, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Rows of a post: each gold entity with what every system made of it, then what was predicted beside the gold.
function rowsOf(post, task) {
  const outcomes = post.outcomes[task];
  const rows = post.gold.map((gold, index) => ({
    gold,
    predicted: outcomes.map((one, system) => {
      const [outcome, partner] = one.gold[index];
      return { outcome, entity: partner === null ? null : post.predicted[system].entities[partner] };
    }),
  }));
  const alone = new Map();
  outcomes.forEach((one, system) => one.predicted.forEach(([outcome, partner], place) => {
    if (partner !== null) return;
    const entity = post.predicted[system].entities[place];
    let key = JSON.stringify([entity.text, entity.type, entity.span, outcome]);
    while (alone.get(key)?.predicted[system]) key += "+";
    if (!alone.has(key)) alone.set(key, { gold: null, predicted: outcomes.map(() => null) });
    alone.get(key).predicted[system] = { outcome, entity };
  }));
  return [...rows, ...alone.values()];
}

const rowCache = new Map();
function rows(post) {
  const key = $("task").value;
  if (!rowCache.has(key)) rowCache.set(key, new Map());
  const known = rowCache.get(key);
  if (!known.has(post)) known.set(post, rowsOf(post, key));
  return known.get(post);
}

function changeOf(row) {
  if (SIDES.length < 2 || !row.gold) return "";
  const [a, b] = row.predicted.map((predicted) => predicted.outcome === "correct");
  return a === b ? (a ? "right" : "wrong") : b ? "fixed" : "regressed";
}

const costsOf = (post) => post.costs[$("task").value];
const costLine = (post) => `costs ${costsOf(post).map((cost, system) => (SIDES.length > 1 ? `${SIDES[system].toUpperCase()} ` : "") + cost.toFixed(2)).join(", ")} points of F1`;

// A post
function card(post) {
  const table = rows(post);
  const title = make("h3", {}, make("span", { className: "id" }, post.id));
  if (post.subset) title.append(make("span", { className: "faint" }, post.subset));
  if (Math.max(...costsOf(post)) > 0) title.append(make("span", { className: "faint" }, costLine(post)));
  const words = make("div", {}, title, textLine(post));
  if (post.problem) words.append(make("p", { className: "bad" }, post.problem));
  post.predicted.forEach((predicted, system) => {
    const about = predicted.missing ? ["no prediction"] : predicted.errors;
    if (about.length) words.append(make("p", { className: "bad" }, label(system), " ", about.join("; ")));
  });
  words.append(table.length ? entityTable(table) : make("p", { className: "faint" }, "No entity, and none was predicted."), answers(post));
  const picture = post.size ? pictureOf(post, table) : null;
  const classes = `card post${picture ? "" : " blind"}`;
  const article = make("article", { className: classes, tabIndex: 0, "aria-label": `post ${post.id}` }, picture, words);
  article.addEventListener("mouseover", (event) => light(article, event.target.closest("tr[data-row]")));
  article.addEventListener("mouseleave", () => light(article, null));
  return article;
}

const label = (system) => make("span", { className: `badge ${SIDES[system]}` }, data.systems.length > 1 ? SIDES[system].toUpperCase() : "predicted");

// Of the post's regions only those of one row of its table, or all of them again.
function light(article, row) {
  for (const other of article.querySelectorAll("tr.lit")) other.classList.remove("lit");
  row?.classList.add("lit");
  for (const group of article.querySelectorAll("g[data-row]")) group.classList.toggle("dim", row !== null && group.dataset.row !== row.dataset.row);
}

function textLine(post) {
  const owner = (entities) => {
    const owners = new Array(post.tokens.length).fill(-1);
    entities.forEach((entity, index) => {
      if (entity.span) for (let at = entity.span[0]; at < entity.span[1]; at += 1) if (owners[at] === -1) owners[at] = index;
    });
    return owners;
  };
  const gold = owner(post.gold);
  const predicted = post.predicted.map((one) => owner(one.entities));
  const line = make("p", { className: "text", dir: "auto" });
  const joined = new Set([0, ...post.joined]);
  const blank = (at) => (joined.has(at) ? "" : " ");
  const keys = post.tokens.map((_, at) => [gold[at], ...predicted.map((owners) => owners[at])].join());
  for (let start = 0, end; start < post.tokens.length; start = end) {
    for (end = start + 1; end < post.tokens.length && keys[end] === keys[start];) end += 1;
    const text = post.tokens.slice(start, end).map((token, at) => (at ? blank(start + at) : "") + token).join("");
    const classes = SIDES.filter((_, system) => predicted[system][start] >= 0).map((side) => `in-${side}`);
    if (gold[start] >= 0) classes.push("named");
    line.append(blank(start));
    const words = make(classes.length ? "mark" : "span", { className: classes.join(" ") }, text);
    line.append(gold[start] >= 0 ? coloured(words, post.gold[gold[start]].type) : words);
  }
  return line;
}

function pictureOf(post, table) {
  const [width, height] = post.size;
  const scale = 1200 / Math.max(width, height);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, width: width * scale, height: height * scale, role: "img", "aria-label": `picture of post ${post.id}` });
  if (post.picture) svg.append(draw("image", { href: post.picture, width, height }));
  const names = [];
  table.forEach((row, index) => {
    const add = (entity, side, isNamed) => {
      svg.append(regions(entity, side, index));
      if (isNamed) names.push({ entity, side, index });
    };
    if (row.gold) add(row.gold, "gold", true);
    row.predicted.forEach((predicted, system) => { if (predicted?.entity) add(predicted.entity, SIDES[system], !(row.gold && bestIou(predicted.entity, row.gold) > 0.5)); });
  });
  svg.append(...nameTags(names, post.size, [...post.gold, ...post.predicted.flatMap((one) => one.entities)].flatMap((entity) => entity.boxes)));
  const button = make("button", { type: "button", className: "zoom", "aria-label": `Enlarge the picture of post ${post.id}`, "aria-expanded": "false" }, svg);
  button.addEventListener("click", () => {
    const wide = button.closest(".post").classList.toggle("wide");
    button.setAttribute("aria-expanded", String(wide));
  });
  const note = post.picture ? null : make("p", { className: "faint" }, "its picture is not in this page");
  return make("div", {}, button, note);
}

function regions(entity, side, row) {
  const shapes = [...entity.masks.map((d) => draw("path", { d })), ...entity.boxes.map(([x, y, width, height]) => draw("rect", { x, y, width, height }))];
  return draw("g", { class: side, "data-row": row }, ...shapes);
}

// Names stand beside their boxes, where they cover the least of any box and of other names.
function nameTags(names, size, boxes) {
  const letter = Math.max(...size) / 28;
  const taken = [...boxes];
  return names.map(({ entity, side, index }) => {
    const text = side === "gold" || SIDES.length === 1 ? entity.text : `${side.toUpperCase()} ${entity.text}`;
    const tags = entity.boxes.map((box) => {
      const place = freePlace(box, [Math.min(text.length * letter * 0.63, size[0]), letter * 1.2], size, taken);
      taken.push(place);
      return draw("text", { x: place[0], y: place[1] + letter * 0.95, "font-size": letter }, text);
    });
    return draw("g", { class: side, "data-row": index }, ...tags);
  });
}

function freePlace([x, y, w, h], [width, height], size, taken) {
  const within = (value, most) => Math.min(Math.max(value, 0), Math.max(most, 0));
  const [right, below] = [x + w, y + h];
  const places = [
    ...[y - height, below].flatMap((top) => [x, right - width].map((left) => [left, top])),
    ...[right, x - width].flatMap((left) => [y, below - height].map((top) => [left, top])),
  ].map(([left, top]) => [within(left, size[0] - width), within(top, size[1] - height), width, height]);
  const covered = places.map((place) => taken.reduce((sum, other) => sum + shared(place, other), 0));
  return places[covered.indexOf(Math.min(...covered))];
}

function entityTable(table) {
  const heads = [make("th", { scope: "col" }, make("span", { className: "badge gold" }, "gold")), ...SIDES.map((_, system) => make("th", { scope: "col" }, label(system), " ", make("small", {}, data.systems[system])))];
  const body = make("tbody", {}, ...table.map((row, index) => {
    const change = changeOf(row);
    const mark = change === "fixed" || change === "regressed" ? make("span", { className: `change ${change === "fixed" ? "good" : "bad"}` }, `${change} in B`) : null;
    const gold = make("th", { scope: "row" }, ...(row.gold ? [...named(row.gold), ...(mark ? [" ", mark] : []), shown(row.gold), expression(row.gold)] : [make("span", { className: "faint" }, "nothing")]));
    return make("tr", { "data-row": index }, gold, ...row.predicted.map((predicted, system) => cell(predicted, row.gold, system)));
  }));
  return make("table", { className: "entities" }, make("thead", {}, make("tr", {}, ...heads)), body);
}

// What a system made of an entity; of what is as in the gold only the outcome and the probability are repeated.
function cell(predicted, gold, system) {
  if (!predicted) return make("td", {});
  const { outcome, entity } = predicted;
  const right = outcome === "correct";
  const iou = entity && gold ? bestIou(entity, gold) : null;
  const words = `${right ? "✓" : "✗"} ${spaced(outcome)}${iou === null ? "" : `, IoU ${iou.toFixed(2)}`}`;
  const kind = `outcome ${right ? "good" : "bad"}`;
  const parts = [make("div", {}, right ? make("span", { className: kind }, words) : term(words, data.outcomes[outcome], { className: kind }))];
  if (entity) {
    if (!gold || entity.text !== gold.text || entity.type !== gold.type) parts.push(...named(entity));
    parts.push(shown(entity));
    if (entity.expression !== gold?.expression) parts.push(expression(entity));
  }
  const side = label(system);
  side.classList.add("side");
  return make("td", { "data-side": SIDES[system] }, side, make("div", {}, ...parts));
}

const named = (entity) => [make("bdi", {}, entity.text), " ", coloured(make("span", { className: "type" }, entity.type), entity.type)];
const expression = (entity) => (entity.expression ? make("i", { dir: "auto" }, entity.expression) : null) ?? "";
const whether = (entity) => (!entity.visible ? "not in the picture" : entity.boxes.length ? "in the picture" : "in the picture, without a box");
const shown = (entity) => make("div", { className: "faint" }, `${whether(entity)}${entity.score === null ? "" : `, ${percent(entity.score)} %`}`);

function bestIou(predicted, gold) {
  if (!predicted.boxes.length || !gold.boxes.length) return null;
  const [box] = predicted.boxes;
  return Math.max(...gold.boxes.map((other) => {
    const both = shared(box, other);
    return both && both / (box[2] * box[3] + other[2] * other[3] - both);
  }));
}

// The area that two boxes share.
function shared([x, y, w, h], [ox, oy, ow, oh]) {
  const across = Math.min(x + w, ox + ow) - Math.max(x, ox);
  const down = Math.min(y + h, oy + oh) - Math.max(y, oy);
  return Math.max(across, 0) * Math.max(down, 0);
}

function answers(post) {
  const list = make("dl", { className: "answers" });
  const add = (what, text) => { if (text) list.append(make("dt", {}, ...what), make("dd", {}, make("pre", { dir: "auto" }, text))); };
  add(["knowledge that came with the post"], post.knowledge.join("\n"));
  post.predicted.forEach((predicted, system) => {
    add([label(system), " knowledge"], predicted.knowledge);
    add([label(system), " raw answer"], predicted.raw);
  });
  return list.children.length ? make("details", {}, make("summary", {}, "knowledge and raw answers"), list) : "";
}
