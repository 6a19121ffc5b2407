// The pages' little script: it tells times in the reader's own, refreshes what is live, and runs the
// playground. Without it the pages are complete, but for the last.

"use strict";

const find = (id) => document.getElementById(id);

function made(tag, look, ...inside) {
  const it = document.createElement(tag);
  if (look) it.className = look;
  it.append(...inside);
  return it;
}

// ------------------------------------------------------------------------------------------ times

function tellTimes(root) {
  const today = new Date().toDateString();
  for (const it of root.querySelectorAll("time[datetime]")) {
    const when = new Date(it.dateTime);
    it.title = when.toString();
    it.textContent =
      when.toDateString() === today ? when.toLocaleTimeString() : when.toLocaleString();
  }
}

// ------------------------------------------------------------------------------------- live pages

function keepFresh(bar) {
  const [box, said] = [bar.querySelector("input"), bar.querySelector("[role=status]")];
  const live = find("live");
  const every = Number(bar.dataset.refresh) * 1000;
  let failing = false;

  const inUse = () => {
    const chosen = document.getSelection();
    return (
      live.contains(document.activeElement) ||
      (chosen && !chosen.isCollapsed && live.contains(chosen.anchorNode))
    );
  };
  const tell = (words) => {
    if (said.textContent !== words) said.textContent = words;
  };

  async function refresh() {
    const reply = await fetch(location.href, { headers: { accept: "text/html" } });
    if (reply.redirected) return location.assign(reply.url); // signed out meanwhile
    if (!reply.ok) throw new Error(`${reply.status}`);
    const page = new DOMParser().parseFromString(await reply.text(), "text/html");
    tellTimes(page);
    if (inUse()) return;
    live.replaceChildren(...page.getElementById("live").childNodes);
    find("revision").replaceWith(page.getElementById("revision"));
  }

  async function turn() {
    if (box.checked && !document.hidden) {
      try {
        await refresh();
        failing = false;
        tell("");
      } catch {
        const now = new Date().toLocaleTimeString();
        if (!failing) tell(`no answer since ${now}: what is shown is older than that`);
        failing = true;
      }
    }
    setTimeout(turn, every);
  }
  bar.hidden = false;
  setTimeout(turn, every);
}

// ------------------------------------------------------------------------------------- playground

// What comes of a stream's bytes: events' data, and the gateway's own summary in a comment.
async function* eventsOf(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    held += done ? "\n\n" : value;
    const blocks = held.split(/\r?\n\r?\n/);
    held = blocks.pop();
    for (const block of blocks) {
      if (block.startsWith(": tandem ")) yield { told: JSON.parse(block.slice(9)) };
      const lines = block.split(/\r?\n/).filter((line) => line.startsWith("data:"));
      if (lines.length) yield { data: lines.map((line) => line.slice(5).trim()).join("\n") };
    }
    if (done) return;
  }
}

async function refusalIn(reply) {
  const text = await reply.text();
  let said = text;
  try {
    said = JSON.parse(text).error.message;
  } catch {
    /* not a gateway's error: it stands for itself */
  }
  const after = reply.headers.get("retry-after");
  return `refused (${reply.status}): ${said}${after ? `; try again in ${after} s` : ""}`;
}

const usd = (amount) => {
  const decimals = amount > 0 ? Math.max(2, 1 - Math.floor(Math.log10(amount))) : 2;
  return `$${amount.toFixed(decimals)}`;
};
const seconds = (value) =>
  value === null ? "–" : value < 0.1 ? `${(value * 1000).toFixed(0)} ms` : `${value.toFixed(2)} s`;
const percent = (part) => `${(part * 100).toFixed(0)} %`;
const total = (counts) => Object.values(counts).reduce((sum, count) => sum + count, 0);

// A whole in parts, [look, size] each, side by side: what the templates draw for a decision.
function split(parts) {
  const drawn = (tag, set) => {
    const it = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(set)) it.setAttribute(name, value);
    return it;
  };
  const box = { class: "split", viewBox: "0 0 100 6", preserveAspectRatio: "none" };
  const bar = drawn("svg", { ...box, "aria-hidden": "true" });
  const whole = parts.reduce((sum, [, size]) => sum + size, 0);
  let at = 0;
  for (const [look, size] of parts) {
    const width = (100 * size) / whole;
    bar.append(drawn("rect", { class: look, x: at, y: 0, width, height: 6 }));
    at += width;
  }
  return bar;
}

// One answer, in a box of its own: asked for, shown as it comes, and told in figures at the end.
class Answer {
  constructor(name, styles, large, alone = false) {
    Object.assign(this, { name, styles, large, said: "", told: null, finish: null });
    Object.assign(this, { first: null, whole: null, error: "", cited: [], counts: {} });
    this.text = made("div", "text");
    this.figures = made("dl", "figures");
    this.alone = alone;
    const title = alone ? `${name} alone` : name;
    this.box = made("section", "panel answer busy", made("h3", "", title), this.text, this.figures);
    this.box.setAttribute("aria-label", `Answer of ${title}`);
    this.figures.hidden = true;
  }

  // Ask for it; an error is told in the box, and nowhere else.
  async ask(body, head, signal) {
    const began = performance.now();
    this.since = () => (performance.now() - began) / 1000;
    try {
      const sent = { method: "POST", headers: head, body: JSON.stringify(body), signal };
      const reply = await fetch("/ui/playground/chat", sent);
      if (!reply.ok) throw new Error(await refusalIn(reply));
      await this.hear(reply);
    } catch (error) {
      this.error = signal.aborted ? "stopped" : error instanceof TypeError
        ? "the gateway cannot be reached" : error.message;
    }
    this.whole = this.since();
    this.end();
  }

  async hear(reply) {
    const writer = (reply.headers.get("x-tandem-models") || this.name).split(/[=,]/)[0];
    for await (const { told, data } of eventsOf(reply.body)) {
      if (told) this.told = told;
      if (data === "[DONE]") return;
      if (data) this.take(JSON.parse(data), writer);
    }
    throw new Error("the answer broke off: the stream ended before it was complete");
  }

  take(chunk, writer) {
    if (chunk.error) throw new Error(`the answer broke off: ${chunk.error.message}`);
    if (chunk.tandem?.citations) this.cited = chunk.tandem.citations;
    const choice = chunk.choices?.[0];
    if (!choice) return;
    this.finish = choice.finish_reason || this.finish;
    const model = chunk.tandem?.model || writer;
    const tokens = chunk.tandem?.tokens?.length || 1;
    const aside = choice.delta?.reasoning || choice.delta?.reasoning_content;
    if (aside) this.add(aside, model, tokens, " aside");
    if (choice.delta?.content) {
      this.said += choice.delta.content;
      this.add(choice.delta.content, model, tokens, "");
    }
  }

  add(text, model, tokens, look) {
    this.first ??= this.since();
    this.counts[model] = (this.counts[model] || 0) + tokens;
    const piece = made("span", `token ${this.styles[model] || ""}${look}`, text);
    piece.title = tokens > 1 ? `${model}, ${tokens} tokens` : model;
    this.text.append(piece);
  }

  get written() {
    return this.told?.models || this.counts;
  }

  get share() {
    const all = total(this.written);
    return all ? (this.written[this.large] || 0) / all : null;
  }

  end() {
    this.box.classList.remove("busy");
    if (this.error) this.text.append(made("p", "error", this.error));
    for (const [name, ...values] of this.tell()) {
      this.figures.append(made("dt", "", name), made("dd", "", ...values));
    }
    this.figures.hidden = !this.figures.childElementCount;
  }

  *tell() {
    const written = Object.entries(this.written);
    if (written.length) {
      const told = written.map(([model, n]) => `${model} ${n}`).join(" + ");
      yield ["written by", told, split(written.map(([model, n]) => [this.styles[model] || "", n]))];
      yield [`by ${this.large}`, percent(this.share)];
    }
    if (this.told) {
      const dear = `, the same on ${this.large} alone ${usd(this.told.baseline_usd)}`;
      yield ["cost", usd(this.told.cost_usd) + (this.alone ? "" : dear)];
    }
    if (this.first !== null) {
      const rate = (total(this.written) - 1) / (this.whole - this.first);
      yield ["first text", seconds(this.first)];
      yield ["all of it", seconds(this.whole) + (rate > 0 && isFinite(rate) ? `, ${rate.toFixed(0)} tokens/s` : "")];
    }
    if (this.finish === "length") yield ["end", "cut off at its greatest length"];
    if (this.told?.reason) yield ["why", this.told.reason];
    for (const one of this.cited) {
      yield [`passage ${one.number}`, `${one.title || one.document}: ${one.start} to ${one.end}`];
    }
  }

  get summary() {
    if (this.error) return `${this.name}: ${this.error}`;
    const cost = this.told ? `, ${usd(this.told.cost_usd)}` : "";
    return `${this.name} wrote ${total(this.written)} tokens in ${seconds(this.whole)}${cost}`;
  }
}

// How an answer compares with the large model's own, which was asked for too, in a few words.
function compared(answer, alone) {
  if (!answer.told || !alone.told || answer.error || alone.error) return "";
  const [cost, dear] = [answer.told.cost_usd, alone.told.cost_usd];
  const change = Math.abs(1 - cost / dear);
  const costs = dear ? `cost ${percent(change)} ${cost <= dear ? "less" : "more"}` : "cost nothing";
  const times = `took ${(answer.whole / alone.whole).toFixed(1)} times as long`;
  const same = answer.said.trim() === alone.said.trim() ? " Both say the same." : "";
  return `Beside ${alone.name} alone, ${answer.name} ${costs} and ${times}; ${percent(answer.share)} of its tokens are ${alone.name}'s.${same}`;
}

class Playground {
  constructor(root) {
    this.styles = JSON.parse(root.dataset.styles);
    this.large = root.dataset.large;
    this.proof = root.dataset.proof;
    this.messages = [];
    this.stopping = null;
    this.form = find("ask");
    this.message = find("message");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.say();
    });
    this.message.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.form.requestSubmit();
    });
    find("stop").addEventListener("click", () => this.stopping?.abort());
    find("example").addEventListener("click", () => {
      this.message.value = this.message.placeholder;
      this.message.focus();
    });
    find("anew").addEventListener("click", () => this.forget());
  }

  forget() {
    this.stopping?.abort();
    this.messages = [];
    find("talk").replaceChildren();
    this.tell("");
    this.message.focus();
  }

  tell(words) {
    find("state").textContent = words;
  }

  // The request's own fields; throws where one is no number.
  settings() {
    const set = {};
    for (const name of ["temperature", "max_tokens"]) {
      const text = find(name).value.trim();
      if (!text) continue;
      if (!isFinite(Number(text))) throw new Error(`${name} is no number: ${text}`);
      set[name] = Number(text);
    }
    return set;
  }

  async say() {
    const text = this.message.value;
    if (this.stopping || !text.trim()) return;
    let body;
    try {
      const asked = [...this.messages, { role: "user", content: text }];
      body = { ...this.settings(), messages: asked, stream: true, stream_options: { include_usage: true } };
    } catch (error) {
      return this.tell(error.message);
    }
    const before = this.messages;
    this.stopping = new AbortController();
    this.busy(true);
    this.message.value = "";
    const answers = await this.answer(text, body);
    if (this.messages === before && answers[0].said) {
      this.messages = [...body.messages, { role: "assistant", content: answers[0].said }];
    } else if (this.messages === before && !this.message.value) {
      this.message.value = text; // nothing came of it: it may be mended and sent again
    }
    this.stopping = null;
    this.busy(false);
  }

  async answer(text, body) {
    const target = find("target").value;
    const answers = [new Answer(target, this.styles, this.large)];
    const beside = find("beside").checked && target !== this.large;
    if (beside) answers.push(new Answer(this.large, this.styles, this.large, true));
    const boxes = made("div", "answers", ...answers.map((answer) => answer.box));
    const turn = made("li", "", made("p", "said", text), boxes);
    find("talk").append(turn);
    turn.scrollIntoView({ block: "nearest" });
    for (const answer of answers) { // one after the other: neither slows the other down
      this.tell(`${answer.name} is answering`);
      await answer.ask({ ...body, model: answer.name }, this.head(), this.stopping.signal);
    }
    const words = beside ? compared(...answers) : "";
    if (words) turn.append(made("p", "verdict", words));
    this.tell("");
    find("heard").textContent = words || answers.map((answer) => answer.summary).join("; ");
    return answers;
  }

  head() {
    const head = { "content-type": "application/json", "tandem-form": this.proof };
    const key = find("key")?.value.trim();
    return key ? { ...head, "x-api-key": key } : head;
  }

  busy(is) {
    find("send").disabled = is;
    find("stop").disabled = !is;
    this.message.focus();
  }
}

tellTimes(document);
const bar = document.querySelector("[data-refresh]");
if (bar) keepFresh(bar);
if (find("ask")) new Playground(find("playground"));
