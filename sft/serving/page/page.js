"use strict";

// Ask every model the same question at once, and show the answers as they grow.
// A text is only ever added as a text node, so no markup in it takes effect.
const at = (id) => document.getElementById(id);
const [form, temperature] = [at("form"), at("temperature")];
const models = fetch("/v1/models")
  .then((response) => response.json())
  .then((list) => list.data.map((model) => model.id));

// Aborts the answers that are growing; null: there are none.
let running = null;

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
  const response = await fetch("/v1/chat/completions", { method: "POST", headers, signal, body });
  if (!response.ok) throw new Error((await response.json()).error.message);
  return events(response.body);
}

async function answer(model, question, signal, box) {
  const [text, note] = [box.querySelector("p"), box.querySelector(".note")];
  const began = performance.now();
  try {
    const more = { model, stream: true, stream_options: { include_usage: true } };
    for await (const event of await ask({ ...question, ...more }, signal)) {
      if (event.error) throw new Error(event.error.message);
      text.append(event.choices[0]?.delta.content ?? "");
      if (event.usage) note.textContent = cost(event.usage.completion_tokens, began) + note.textContent;
      if (event.choices[0]?.finish_reason === "length") note.textContent = ", cut at the limit";
    }
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
    at("answers").prepend(element("article", "exchange", asked, columns));
    await Promise.all(boxes.map(([model, box]) => answer(model, question, running.signal, box)));
  } catch (error) {
    at("about").textContent = error.message;
  } finally {
    running = null;
    busy(false);
  }
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
at("stop").addEventListener("click", () => running?.abort());
temperature.addEventListener("input", showWarmth);
showWarmth();
