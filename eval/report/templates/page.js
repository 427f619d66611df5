// Filters, orders, pages and keys. What a post looks like is in post.js.
const filters = () => ({
  words: $("search").value.toLowerCase().split(/\s+/).filter(Boolean),
  outcome: $("outcome").value,
  type: $("type").value,
  system: $("system")?.value ?? "",
  change: $("change")?.value ?? "",
  subset: $("subset").value,
});

const texts = new Map();
function textOf(post) {
  if (!texts.has(post)) {
    const entities = [post.gold, ...post.predicted.map((predicted) => predicted.entities)].flat();
    const parts = [post.id, ...post.tokens, ...post.knowledge, ...post.predicted.flatMap((predicted) => [predicted.raw, predicted.knowledge, ...predicted.errors]),
      ...entities.flatMap((entity) => [entity.text, entity.expression])];
    texts.set(post, parts.join(" ").toLowerCase());
  }
  return texts.get(post);
}

function rowFits(row, filter) {
  const kept = row.predicted.filter((predicted, system) => predicted && (filter.system === "" || Number(filter.system) === system));
  if (filter.outcome && !kept.some((predicted) => predicted.outcome === filter.outcome)) return false;
  if (filter.type && row.gold?.type !== filter.type && !kept.some((predicted) => predicted.entity?.type === filter.type)) return false;
  if (!filter.outcome && !filter.type && filter.system !== "" && !kept.length) return false;
  if (!filter.change) return true;
  const [from, to] = filter.change.split(">");
  if (to === undefined) return changeOf(row) === filter.change;
  return row.gold !== null && row.predicted[0].outcome === from && row.predicted[1].outcome === to;
}

function fits(post, filter) {
  if (filter.subset && post.subset !== filter.subset) return false;
  if (filter.words.length && !filter.words.every((word) => textOf(post).includes(word))) return false;
  if (!filter.outcome && !filter.type && !filter.change) return true;
  return rows(post).some((row) => rowFits(row, filter));
}

// Orders: of posts of one rank those with a picture come first.
const costOf = (post) => Math.max(...costsOf(post).filter((_, system) => ["", String(system)].includes(filters().system)));
const surenessOf = (post) => Math.max(0, ...rows(post).flatMap((row) => row.predicted.map((predicted) =>
  predicted?.entity && predicted.entity.score !== null && row.gold && row.gold.visible !== predicted.entity.visible ? Math.abs(predicted.entity.score - 0.5) : 0)));
const RANKS = { cost: costOf, sure: surenessOf, file: () => 0 };

let chosen = [];
let page = 0;

function choose() {
  const filter = filters();
  const rank = RANKS[$("order").value];
  chosen = data.posts.map((post, place) => ({ post, place })).filter(({ post }) => fits(post, filter))
    .map((one) => ({ ...one, pictured: one.post.picture ? 0 : 1, rank: rank(one.post) }))
    .sort((one, other) => other.rank - one.rank || one.pictured - other.pictured || one.place - other.place)
    .map(({ post }) => post);
  show(0);
}

function show(to) {
  page = to;
  const start = page * PER_PAGE;
  const shown = chosen.slice(start, start + PER_PAGE);
  $("gallery").replaceChildren(...shown.map(card));
  const range = shown.length ? `${start + 1} to ${start + shown.length} of ${chosen.length}` : "none";
  $("count").textContent = chosen.length === data.posts.length ? `${range} posts` : `${range} posts that fit, of ${data.posts.length}`;
  for (const [id, step] of [["before", -1], ["after", 1]]) {
    const possible = page + step >= 0 && (page + step) * PER_PAGE < chosen.length;
    for (const button of document.querySelectorAll(`[data-turn="${step}"]`)) {
      button.hidden = chosen.length <= PER_PAGE;
      button.disabled = !possible;
    }
  }
}

function turn(step, last = false) {
  const to = page + step;
  if (to < 0 || to * PER_PAGE >= chosen.length) return;
  show(to);
  const posts = $("gallery").children;
  posts[last ? posts.length - 1 : 0].focus();
}

// Controls
function fillOutcomes() {
  const kept = $("outcome").value;
  const system = $("system")?.value ?? "";
  const counts = new Map();
  for (const post of data.posts) for (const row of rows(post)) {
    const names = row.predicted.filter((predicted, place) => predicted && (system === "" || Number(system) === place)).map((predicted) => predicted.outcome);
    for (const name of new Set(names)) counts.set(name, (counts.get(name) ?? 0) + 1);
  }
  const options = Object.keys(data.outcomes).filter((name) => counts.has(name) || name === kept);
  $("outcome").replaceChildren(make("option", { value: "" }, "any"), ...options.map((name) => make("option", { value: name, title: data.outcomes[name] }, `${spaced(name)} (${counts.get(name) ?? 0})`)));
  $("outcome").value = kept;
}

function layer(id) {
  $("gallery").classList.toggle(`no-${id}`, !$(`show-${id}`).checked);
}

function select(change) {
  const menu = $("change");
  menu.querySelector("[data-move]")?.remove();
  if (change.includes(">")) {
    const [from, to] = change.split(">").map(spaced);
    menu.append(make("option", { value: change, "data-move": "" }, `${from} → ${to}`));
  }
  clear(false);
  menu.value = change;
  choose();
  $("posts").scrollIntoView();
  $("gallery").firstElementChild?.focus({ preventScroll: true });
}

function clear(andChoose = true) {
  for (const id of ["search", "outcome", "type", "system", "change", "subset"]) if ($(id)) $(id).value = "";
  fillOutcomes();
  if (andChoose) choose();
}

function step(by) {
  const posts = [...$("gallery").children];
  const at = posts.indexOf(document.activeElement?.closest?.(".post"));
  const next = at < 0 ? (by > 0 ? 0 : -1) : at + by;
  if (posts[next]) {
    posts[next].focus({ preventScroll: true });
    posts[next].scrollIntoView();
  } else turn(by, by < 0);
}

const toggle = (id) => $(`show-${id}`)?.click();
const KEYS = {
  j: () => step(1), k: () => step(-1), n: () => turn(1), p: () => turn(-1), c: () => clear(), "/": () => $("search").focus(),
  g: () => toggle("gold"), a: () => toggle("a"), b: () => toggle("b"), m: () => toggle("masks"), l: () => toggle("names"),
  e: () => document.activeElement?.closest?.(".post")?.querySelector(".zoom")?.click(), "?": () => $("keys").showModal(),
};

// The entity in that row of the post that has the focus, lit or no longer.
function lightRow(place) {
  const post = document.activeElement?.closest?.(".post");
  const row = post?.querySelectorAll("tr[data-row]")[place];
  if (row) light(post, row.classList.contains("lit") ? null : row);
}

document.addEventListener("keydown", (event) => {
  const field = event.target.closest?.("input:not([type=checkbox]), select, dialog");
  if (event.key === "Escape" && (field === $("search") || event.target.matches?.(".term"))) event.target.blur();
  if (field || event.ctrlKey || event.metaKey || event.altKey) return;
  const onPost = event.target.classList?.contains("post");
  const key = onPost && event.key === "ArrowDown" ? "j" : onPost && event.key === "ArrowUp" ? "k" : event.key;
  if (/^[1-9]$/.test(key)) lightRow(Number(key) - 1);
  if (!Object.hasOwn(KEYS, key)) return;
  event.preventDefault();
  KEYS[key]();
});

$("type").append(make("option", { value: "" }, "any"), ...data.types.map(([type]) => make("option", { value: type }, type)));
$("end").append(...["before", "after"].map((id) => $(id).cloneNode(true)));
for (const button of document.querySelectorAll(".pager button")) {
  button.dataset.turn = button.id === "before" ? "-1" : "1";
  if (button.parentElement === $("end")) button.removeAttribute("id");
  button.addEventListener("click", () => turn(Number(button.dataset.turn)));
}
$("search").addEventListener("input", choose);
for (const id of ["outcome", "type", "change", "subset", "order"]) $(id)?.addEventListener("change", choose);
for (const id of ["system", "task"]) $(id)?.addEventListener("change", () => { fillOutcomes(); choose(); });
for (const id of ["gold", "a", "b", "masks", "names"]) $(`show-${id}`)?.addEventListener("change", () => layer(id));
for (const button of document.querySelectorAll("[data-change]")) button.addEventListener("click", () => select(button.dataset.change));
$("close").addEventListener("click", () => $("keys").close());
$("tools").hidden = false;
fillOutcomes();
choose();
