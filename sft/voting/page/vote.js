"use strict";

// Show a ballot, send the vote, show the next one. The server knows which model gave which answer;
// this page does not.
// A text is only ever added as a text node, so no markup in it takes effect.
const at = (id) => document.getElementById(id);
const KEYS = { a: "left", b: "right", t: "tie", x: "bad" };

let voter = null;

// The ballot that is shown; null: there is none.
let shown = null;

// The keys of the ballots on which this page has sent a vote, the newest last.
const voted = [];

// A request is under way. Votes that come meanwhile are for a ballot that nobody has seen.
let busy = false;

async function call(path, body) {
  const headers = { "content-type": "application/json" };
  const options = body ? { method: "POST", headers, body: JSON.stringify(body) } : {};
  const response = await fetch(path, options);
  const found = await response.json();
  if (!response.ok) throw new Error(found.error.message);
  return found;
}

// Do one request at a time. If it fails, say so and leave the page as it was.
async function once(request) {
  if (busy) return;
  busy = true;
  try {
    show(await request());
    at("wrong").textContent = "";
  } catch (error) {
    at("wrong").textContent = `Not saved: ${error.message}`;
  } finally {
    busy = false;
  }
}

function get(key) {
  const query = new URLSearchParams(key ? { voter, ballot: key } : { voter });
  return call(`/ballot?${query}`);
}

function element(name, className, ...children) {
  const made = document.createElement(name);
  made.className = className;
  made.append(...children);
  return made;
}

function show(found) {
  shown = found.ballot;
  at("who").hidden = true;
  at("progress").textContent = `${voter}: ${found.done} of ${found.total} pairs of answers`;
  at("ballot").hidden = !shown;
  at("end").hidden = Boolean(shown);
  at("back").hidden = voted.length === 0;
  if (!shown) return at("done").focus();

  const turns = shown.before.map((turn) => element("p", "", element("b", "", turn.role), ` ${turn.content}`));
  at("before").replaceChildren(...turns);
  const input = shown.input ? [element("span", "quiet", shown.input)] : [];
  at("question").replaceChildren(shown.instruction, ...input);
  for (const side of ["left", "right"]) {
    at(side).textContent = shown[side] || "(nothing)";
    at(side).scrollTop = 0;
  }
  for (const button of document.querySelectorAll("[data-choice]")) {
    button.setAttribute("aria-pressed", String(button.dataset.choice === shown.choice));
  }
  scrollTo(0, 0);
  at("question").focus();
}

function vote(choice) {
  if (!shown) return;
  const ballot = shown.key;
  once(async () => {
    const found = await call("/vote", { voter, ballot, choice });
    voted.push(ballot);
    return found;
  });
}

function back() {
  if (!voted.length) return;
  once(async () => {
    const found = await get(voted.at(-1));
    voted.pop();
    return found;
  });
}

at("who").addEventListener("submit", (event) => {
  event.preventDefault();
  voter = at("voter").value.trim();
  once(() => get());
});
for (const button of document.querySelectorAll("[data-choice]")) {
  button.addEventListener("click", () => vote(button.dataset.choice));
}
at("back").addEventListener("click", back);

// A key that is held down votes once.
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input");
  if (typing || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const key = event.key.toLowerCase();
  if (key in KEYS) vote(KEYS[key]);
  if (key === "u") back();
});
