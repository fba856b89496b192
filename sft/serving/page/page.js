"use strict";

// Ask every model the same question at once, and show the answers as they grow. A model that was
// tuned on conversations is shown its own earlier answers, too.
// A text is only ever added as a text node, so no markup in it takes effect.
const at = (id) => document.getElementById(id);
const [form, temperature] = [at("form"), at("temperature")];

// The server may ask for a key. It is kept until the page is left.
let key = null;
const models = listModels();

// The earlier turns of each model, by its name.
let history = {};

// Aborts the answers that are growing; null: there are none.
let running = null;

async function listModels() {
  const list = await (await call("/v1/models")).json();
  if (list.data.every((model) => model.conversations)) beginConversation();
  return list.data.map((model) => model.id);
}

async function call(path, options = {}) {
  const headers = { ...options.headers, ...(key ? { authorization: `Bearer ${key}` } : {}) };
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  if (response.status === 401) {
    key = window.prompt("This server asks for its key");
    if (key) return call(path, options);
  }
  throw new Error((await response.json()).error.message);
}

function beginConversation() {
  document.body.classList.add("conversation");
  at("system-part").hidden = false;
  at("about").textContent = "A conversation: each model is shown what was said before.";
}

function element(name, className, ...children) {
  const made = document.createElement(name);
  made.className = className;
  made.append(...children);
  return made;
}

// Yield the events of a stream. Each `data:` line holds an object; the last one holds [DONE].
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("the server broke off");
    const lines = (held + value).split("\n\n");
    held = lines.pop();
    for (const line of lines) {
      const data = line.slice("data: ".length);
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
  }
}

async function ask(question, signal) {
  const headers = { "content-type": "application/json" };
  const body = JSON.stringify(question);
  const response = await call("/v1/chat/completions", { method: "POST", headers, signal, body });
  return events(response.body);
}

async function answer(model, question, signal, box) {
  const talks = document.body.classList.contains("conversation");
  const earlier = talks ? (history[model] ??= []) : [];
  const system = at("system").value.trim();
  const told = talks && system ? [{ role: "system", content: system }] : [];
  const messages = [...told, ...earlier, ...question.messages];
  const [text, note] = [box.querySelector("p"), box.querySelector(".note")];
  const began = performance.now();
  try {
    const more = { model, stream: true, stream_options: { include_usage: true } };
    for await (const event of await ask({ ...question, messages, ...more }, signal)) {
      if (event.error) throw new Error(event.error.message);
      text.append(event.choices[0]?.delta.content ?? "");
      if (event.usage) note.textContent = cost(event.usage.completion_tokens, began) + note.textContent;
      if (event.choices[0]?.finish_reason === "length") note.textContent = ", cut at the limit";
    }
    const [{ content }] = question.messages;
    const asked = question.input ? `${content}\n\n${question.input}` : content;
    earlier.push({ role: "user", content: asked });
    earlier.push({ role: "assistant", content: text.textContent });
  } catch (error) {
    if (signal.aborted) note.textContent = "stopped";
    else {
      box.classList.add("wrong");
      text.append(text.textContent ? `\n${error.message}` : error.message);
    }
  }
  box.removeAttribute("aria-busy");
}

const cost = (tokens, began) => `${tokens} tokens, ${((performance.now() - began) / 1000).toFixed(1)} s`;

function boxFor(model) {
  const note = element("span", "quiet note");
  const heading = element("h2", "", element("span", "name", model), note);
  const box = element("section", `answer ${model}`, heading, element("p", ""));
  box.setAttribute("aria-busy", "true");
  box.setAttribute("aria-label", `answer of ${model}`);
  return box;
}

async function submit(event) {
  event.preventDefault();
  if (running) return;
  running = new AbortController();
  busy(true);
  const [content, input] = [at("instruction").value.trim(), at("input").value.trim()];
  const question = { messages: [{ role: "user", content }], input, temperature: Number(temperature.value) };
  try {
    const boxes = (await models).map((model) => [model, boxFor(model)]);
    const asked = element("p", "question", content, ...(input ? [element("span", "quiet", input)] : []));
    const columns = element("div", "columns", ...boxes.map(([, box]) => box));
    const exchange = element("article", "exchange", asked, columns);
    if (document.body.classList.contains("conversation")) {
      at("answers").append(exchange);
      at("instruction").value = at("input").value = "";
    } else at("answers").prepend(exchange);
    await Promise.all(boxes.map(([model, box]) => answer(model, question, running.signal, box)));
  } catch (error) {
    at("about").textContent = error.message;
  } finally {
    running = null;
    busy(false);
    if (document.body.classList.contains("conversation")) awaitNext();
  }
}

// The next question is typed below the answers, which may have moved it out of sight.
function awaitNext() {
  at("new").hidden = false;
  if (document.activeElement === document.body) at("instruction").focus();
  form.scrollIntoView({ block: "nearest" });
}

function forget() {
  history = {};
  at("answers").replaceChildren();
  at("new").hidden = true;
}

function busy(is) {
  at("ask").disabled = is;
  at("stop").hidden = !is;
}

function showWarmth() {
  const value = Number(temperature.value);
  at("warmth").textContent = value ? value.toFixed(1) : "0, the likeliest";
}

form.addEventListener("submit", submit);
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && event.target.matches("textarea")) {
    event.preventDefault();
    form.requestSubmit();
  }
});
at("new").addEventListener("click", forget);
at("stop").addEventListener("click", () => running?.abort());
temperature.addEventListener("input", showWarmth);
showWarmth();
