"use strict";

// The table of all records: one page of it at a time, whatever their number. Texts only ever become text nodes.
const SIZE = 25;
const rows = JSON.parse(document.getElementById("rows").textContent);
const at = (id) => document.getElementById(id);
const table = at("table");
const headers = [...table.tHead.rows[0].cells];
const collator = new Intl.Collator(undefined, { numeric: true });
const state = { words: "", category: "", key: "", down: false, page: 0 };
let shown = rows;

const value = (row, key) => key === "label" ? mixed(row.record) : key.split(".").reduce((part, name) => part?.[name], row) ?? null;

// An order that has nothing to do with the records: labels correct a judge only if they are of a random sample.
function mixed(number) {
  for (let round = 0; round < 2; round++) number = Math.imul(number ^ (number >>> 16), 0x45d9f3b);
  return (number ^ (number >>> 16)) >>> 0;
}

// A person's scores. Each holds its answer: an evaluation with other answers has other labels.
const KEPT = `sft labels ${table.dataset.evaluation}`;
const labels = new Map();
const textOf = new Map(rows.flatMap((row) => ["tuned", "base"].map((model) => [`${row.record} ${model}`, row[model]?.text])));
try {
  for (const label of JSON.parse(localStorage.getItem(KEPT)) ?? []) {
    const name = `${label.record} ${label.model}`;
    if (textOf.get(name) === label.answer) labels.set(name, label);
  }
} catch { /* No storage here, or nothing readable in it: the labels last as long as the page. */ }

function label(row, model) {
  const name = `${row.record} ${model}`;
  const input = element("input", { type: "number", min: 0, max: 100, value: labels.get(name)?.score ?? "", ariaLabel: `your score of the ${model} answer to record ${row.record}` });
  input.onchange = () => {
    const score = Number(input.value);
    if (input.value !== "" && score >= 0 && score <= 100) {
      labels.set(name, { record: row.record, model, answer: row[model].text, score });
    } else {
      labels.delete(name);
      input.value = "";
    }
    try { localStorage.setItem(KEPT, JSON.stringify([...labels.values()])); } catch { /* as above */ }
    countLabels();
  };
  return input;
}

function countLabels() {
  at("save").disabled = !labels.size;
  at("save").textContent = labels.size ? `Save your ${labels.size.toLocaleString("en")} scores` : "Save your scores";
}

function saveLabels() {
  const text = JSON.stringify({ evaluation: table.dataset.evaluation, labels: [...labels.values()] }, null, 1);
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: "labels.json" });
  link.click();
  URL.revokeObjectURL(link.href);
}

function haystack(row) {
  row.texts ??= [...(row.before ?? []).map((turn) => turn.content), row.instruction, row.input, row.output, row.category, row.tuned?.text, row.base?.text, row.tuned?.reason]
    .filter(Boolean).join("\n").toLowerCase();
  return row.texts;
}

function compare(a, b) {
  const [x, y] = [value(a, state.key), value(b, state.key)];
  if (x === null || y === null) return (x === null) - (y === null) || a.record - b.record; // what is absent comes last
  const order = typeof x === "string" ? collator.compare(x, y) : x - y;
  return (state.down ? -order : order) || a.record - b.record;
}

function choose() {
  const words = state.words.trim().toLowerCase();
  shown = rows.filter((row) => (!state.category || row.category === state.category) && haystack(row).includes(words));
  shown.sort(compare);
}

function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function cell(row, header) {
  const key = header.dataset.key;
  const made = element("td", { className: header.classList.contains("n") ? "n" : "wide" });
  made.setAttribute("role", "cell");
  if (key === "record") made.append(String(row.record), ...tags(row));
  else if (key === "instruction") made.append(instruction(row));
  else if (key === "tuned.text") made.append(answers(row));
  else if (key === "label") {
    for (const model of ["tuned", "base"]) if (typeof row[model]?.text === "string") made.append(label(row, model));
    made.dataset.label = header.textContent.trim();
  } else {
    if (key === "tuned.score") made.classList.add("judged");
    const digits = Number(header.dataset.digits);
    made.append(number(value(row, key), digits));
    if (row.base) made.append(element("span", { title: "base" }, number(value(row, key.replace("tuned", "base")), digits)));
    made.dataset.label = header.textContent.trim();
  }
  return made;
}

const number = (x, digits) => (x === null ? "–" : x.toFixed(digits).replace("-", "−"));

function tags(row) {
  const duplicate = row.duplicate && (row.duplicate === "near" ? "nearly in training" : "in training");
  const unasked = row.tuned?.text === null && `prompt ${row.tuned.status}`;
  const endless = row.tuned?.finish_reason === "length" && "cut at the limit";
  return [row.category, duplicate, endless, unasked].filter(Boolean).map((text) => element("span", { className: "tag" }, text));
}

// The question is not in the block of the turns before it, so that a long conversation does not hide it.
function instruction(row) {
  const turns = (row.before ?? []).map((turn) => element("span", { className: "turn" }, element("b", {}, turn.role), ` ${turn.content}`));
  const earlier = element("div", { className: "clamp earlier" }, ...turns);
  const made = element("div", { className: "clamp" }, row.instruction ?? "");
  if (row.input) made.append(element("span", { className: "input" }, row.input));
  return element("div", {}, ...(turns.length ? [earlier, more(earlier)] : []), made, more(made));
}

function answers(row) {
  const made = element("dl", { className: "said" });
  const add = (label, text, kind) => {
    const said = element("div", { className: "clamp" }, text || (text === null ? "(not asked)" : "(nothing)"));
    made.append(element("dt", {}, label), element("dd", { className: kind }, said, more(said)));
  };
  add("expected", row.output, "expected");
  if (row.tuned) add("tuned", row.tuned.text, "tuned");
  const status = row.tuned?.text !== null && row.tuned?.status;
  if (row.tuned?.reason || (status && status !== "scored")) {
    add("judge", [status !== "scored" && status, row.tuned.reason].filter(Boolean).join(": "), "reason");
  }
  if (row.base) add("base", row.base.text, "base");
  return made;
}

function more(clamped) {
  const button = element("button", { type: "button", className: "more", hidden: true }, "show all");
  button.onclick = () => {
    const open = clamped.classList.toggle("clamp");
    button.textContent = open ? "show all" : "show less";
  };
  return button;
}

function draw() {
  const pages = Math.max(1, Math.ceil(shown.length / SIZE));
  state.page = Math.min(Math.max(state.page, 0), pages - 1);
  const part = shown.slice(state.page * SIZE, (state.page + 1) * SIZE);
  table.tBodies[0].replaceChildren(...part.map((row) => {
    const line = element("tr", { id: `record-${row.record}` }, ...headers.map((header) => cell(row, header)));
    line.setAttribute("role", "row");
    return line;
  }));
  const cut = [...table.querySelectorAll(".clamp")].filter((text) => text.scrollHeight > text.clientHeight + 1);
  for (const text of cut) text.nextSibling.hidden = false;
  const first = state.page * SIZE + 1;
  at("found").textContent = shown.length
    ? `${first.toLocaleString("en")} to ${(first + part.length - 1).toLocaleString("en")} of ${shown.length.toLocaleString("en")}`
    : "no record";
  at("pages").textContent = pages.toLocaleString("en");
  Object.assign(at("page"), { value: state.page + 1, max: pages });
  at("previous").disabled = state.page === 0;
  at("next").disabled = state.page === pages - 1;
}

function update(changes) {
  Object.assign(state, { page: 0 }, changes);
  choose();
  draw();
}

function turn(page) {
  state.page = page;
  draw();
}

function sort(header) {
  const key = header.dataset.key;
  update({ key, down: key === state.key && !state.down });
  for (const other of headers) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", state.down ? "descending" : "ascending");
  table.classList.toggle("blind", key === "label");
}

// A link to #record-17 shows that record, wherever it stands.
function follow() {
  const record = Number(location.hash.match(/^#record-(\d+)$/)?.[1]);
  if (!rows.some((row) => row.record === record)) return;
  at("search").value = at("category").value = "";
  update({ words: "", category: "" });
  turn(Math.floor(shown.findIndex((row) => row.record === record) / SIZE));
  const line = at(`record-${record}`);
  line.classList.add("found");
  line.scrollIntoView({ block: "center" });
}

const categories = [...new Set(rows.map((row) => row.category).filter(Boolean))].sort(collator.compare);
at("category").append(...categories.map((name) => element("option", { value: name }, name)));
at("category").parentElement.hidden = !categories.length;
for (const header of headers) header.querySelector("button").onclick = () => sort(header);
at("search").oninput = (event) => update({ words: event.target.value });
at("category").onchange = (event) => update({ category: event.target.value });
at("page").onchange = (event) => turn((Math.trunc(event.target.value) || 1) - 1);
at("previous").onclick = () => turn(state.page - 1);
at("next").onclick = () => turn(state.page + 1);
if (at("save")) {
  at("save").onclick = saveLabels;
  countLabels();
}
addEventListener("hashchange", follow);
sort(headers[0]);
follow();
