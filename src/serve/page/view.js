// view.js - messages on the page: what was said, the folded thinking, progress, speed, and the buttons below.

const byId = (id) => document.getElementById(id);
const whole = (n) => Math.round(n).toLocaleString("en-US");
const oneDecimal = (n) => (n >= 100 ? whole(n) : n.toFixed(1));

function seconds(ms) {
  return ms < 59500 ? `${(ms / 1000).toFixed(ms < 9950 ? 1 : 0)} s` : `${Math.floor(ms / 60000)} min ` +
    `${Math.round((ms % 60000) / 1000)} s`;
}

function ago(ms) {
  const minutes = (Date.now() - ms) / 60000;
  if (minutes < 1) return "now";
  if (minutes < 60) return `${Math.floor(minutes)} min ago`;
  if (minutes < 1440) return `${Math.floor(minutes / 60)} h ago`;
  return new Date(ms).toLocaleDateString();
}

// Tokens a second over the answer, as a line over a soft area.
function plotOf(points) {
  const ns = "http://www.w3.org/2000/svg", w = 120, h = 26, most = Math.max(...points, 0.1), least = Math.min(...points);
  const shape = (name, attributes) => {
    const node = document.createElementNS(ns, name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };
  const xy = points.map((p, i) => `${((i * w) / (points.length - 1)).toFixed(1)},` +
    `${(h - 2 - (p / most) * (h - 5)).toFixed(1)}`);
  const said = `Speed over the answer: from ${oneDecimal(least)} to ${oneDecimal(most)} tokens a second`;
  const svg = shape("svg", { viewBox: `0 0 ${w} ${h}`, role: "img", "aria-label": said, preserveAspectRatio: "none" });
  const title = shape("title", {});
  title.textContent = said;
  svg.append(title, shape("polygon", { points: `0,${h} ${xy.join(" ")} ${w},${h}`, fill: "currentColor",
    "fill-opacity": "0.13" }), shape("polyline", { points: xy.join(" "), fill: "none", stroke: "currentColor",
    "stroke-width": "1.5", "stroke-linejoin": "round", "vector-effect": "non-scaling-stroke" }));
  return svg;
}

function statsText(stats) {
  const parts = [];
  if (stats.n_out) parts.push(`${whole(stats.n_out)} tokens`);
  if (stats.speed) parts.push(`${oneDecimal(stats.speed)} tokens/s`);
  if (stats.n_prompt) {
    const read = stats.n_prompt - stats.n_reused;
    parts.push(stats.n_reused ? `read ${whole(read)} of ${whole(stats.n_prompt)}` : `read ${whole(read)}`);
  }
  return parts.join(" \u00b7 ");
}

// Endings that a person should know of.
const ENDINGS = { length: "Stopped at the limit", stopped: "Stopped", repetition: "Stopped: it repeated itself" };

const mini = (word, label, act) => make("button", { type: "button", class: "mini", "aria-label": label, onclick: act },
  word);

function branchOf(chat, node, acts) {
  const list = chat.siblings(node), at = list.indexOf(node);
  if (list.length < 2) return null;
  const go = (step, word, label) => {
    const button = mini(word, label, () => acts.branch(list[at + step]));
    button.disabled = !list[at + step] || acts.busy();
    return button;
  };
  return make("span", { class: "branch", role: "group", "aria-label": `Version ${at + 1} of ${list.length}` },
    go(-1, "\u2039", "Earlier version"), make("span", {}, `${at + 1}/${list.length}`),
    go(1, "\u203a", "Later version"));
}

class MessageView {
  constructor(chat, node, acts) {
    Object.assign(this, { chat, node, acts });
    const name = { user: "You", assistant: "Model", system: "System message" }[node.role];
    this.body = make("div", { class: "body" });
    this.tail = make("div", { class: "tail" });
    this.element = make("article", { class: node.role, "aria-label": name, "data-id": node.id });
    if (node.role === "assistant") this.growing = new GrowingText(this.body);
    else this.body.textContent = node.content;
    if (node.role === "system") this.element.append(make("details", {}, make("summary", {}, name), this.body));
    else this.element.append(this.body, this.tail);
    if (node.role !== "system") this.update();
  }

  // live: {phase: "wait"|"read"|"think"|"say", progress, speed, since} while the answer is being made.
  update(live = null) {
    if (this.node.role === "assistant") {
      this.updateThinking(live);
      this.growing.show(this.node.content);
      this.body.classList.toggle("caret", live?.phase === "say");
      this.body.hidden = !this.node.content && live?.phase !== "say";
      this.updateProgress(live);
      this.updateTrouble(live);
    }
    this.updateTail(live);
  }

  updateThinking(live) {
    if (!this.node.reasoning && live?.phase !== "think") return;
    if (!this.thinking) {
      this.thinkingText = make("div", { class: "body" });
      this.thinkingWord = make("summary");
      this.thinking = make("details", { class: "think" }, this.thinkingWord, this.thinkingText);
      this.growingThought = new GrowingText(this.thinkingText);
      this.thinking.addEventListener("toggle", () => this.growingThought.show(this.node.reasoning));
      this.element.prepend(this.thinking);
    }
    const ms = live?.phase === "think" ? performance.now() - live.since : this.node.thought_ms;
    this.thinkingWord.textContent = live?.phase === "think" ? `Thinking, ${seconds(ms)}` :
      ms ? `Thought for ${seconds(ms)}` : "Thoughts";
    if (this.thinking.open) this.growingThought.show(this.node.reasoning);
  }

  updateProgress(live) {
    const waits = live?.phase === "wait" || live?.phase === "read";
    if (!waits) {
      this.progress?.remove();
      this.progress = null;
      return;
    }
    if (!this.progress) {
      this.progressWord = make("span");
      this.progressBar = make("progress", { max: "1", "aria-label": "Reading the conversation" });
      this.progress = make("div", { class: "progress" }, this.progressWord, this.progressBar);
      this.element.insertBefore(this.progress, this.tail);
    }
    const p = live.progress;
    this.progressBar.hidden = !p;
    this.progressWord.textContent = p ? `Reading ${whole(p.processed)} of ${whole(p.total)} tokens` : "Waiting";
    if (p) this.progressBar.value = p.processed / Math.max(p.total, 1);
  }

  updateTrouble(live) {
    const text = live ? null : this.node.trouble;
    if (!text) {
      this.trouble?.remove();
      this.trouble = null;
    } else if (!this.trouble) {
      this.trouble = make("div", { class: "trouble", role: "alert" }, make("span", {}, text),
        make("button", { type: "button", onclick: () => this.acts.again(this.node) }, "Try again"));
      this.element.insertBefore(this.trouble, this.tail);
    }
  }

  updateTail(live) {
    const { chat, node, acts } = this;
    if (live) {
      this.liveWord ??= make("span", { class: "live" });
      this.liveWord.textContent = live.speed.n ? `${whole(live.speed.n)} tokens \u00b7 ` +
        `${oneDecimal(live.speed.now())} tokens/s` : "";
      if (this.tail.firstChild !== this.liveWord) this.tail.replaceChildren(this.liveWord);
      return;
    }
    this.liveWord = undefined;
    const mine = node.role === "user", copy = mini("Copy", "Copy the message", () => copyText(node.content, copy));
    const parts = [branchOf(chat, node, acts), mine ? mini("Edit", "Edit the message", () => this.edit()) :
      mini("Again", "Answer again", () => acts.again(node)), node.content ? copy : null];
    if (!mine) {
      parts.push(make("span", { class: "gap" }));
      if (node.stats?.points?.length > 2) parts.push(plotOf(node.stats.points));
      const words = [node.stats ? statsText(node.stats) : ""];
      if (ENDINGS[node.finish]) words.unshift(ENDINGS[node.finish]);
      parts.push(make("span", { class: "stats" }, words.filter(Boolean).join(" \u00b7 ")));
    }
    this.tail.replaceChildren(...parts.filter(Boolean));
  }

  edit() {
    if (this.acts.busy()) return;
    const field = make("textarea", { "aria-label": "Edit the message", rows: "3" });
    field.value = this.node.content;
    const leave = () => {
      editor.replaceWith(this.body);
      this.tail.hidden = false;
      this.tail.querySelector("[aria-label='Edit the message']")?.focus();
    };
    const send = () => {
      if (field.value.trim()) this.acts.edit(this.node, field.value);
    };
    const editor = make("div", { class: "editor" }, field, make("div", { class: "row end" },
      make("button", { type: "button", class: "plain", onclick: leave }, "Cancel"),
      make("button", { type: "button", class: "primary", onclick: send }, "Send")));
    field.addEventListener("keydown", (event) => {
      if (event.key === "Escape") leave();
      else if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        send();
      }
    });
    this.body.replaceWith(editor);
    this.tail.hidden = true;
    field.focus();
  }
}

// One row of a list of conversations. remove may be null.
function chatRow(title, small, current, open, remove) {
  const button = make("button", { type: "button", class: "open", "aria-current": current ? "true" : null, onclick: open },
    make("span", {}, title || "New conversation"), make("small", {}, small));
  const row = make("li", { class: current ? "current" : null }, button);
  if (!remove) return row;
  const bin = make("button", { type: "button", class: "icon remove", "aria-label": `Remove: ${title}` }, sign("close"));
  bin.addEventListener("click", () => {
    if (bin.classList.contains("sure")) {
      remove();
      return;
    }
    bin.classList.add("sure");
    bin.setAttribute("aria-label", `Really remove: ${title}`);
    byId("status").textContent = "Press again to remove.";
  });
  bin.addEventListener("blur", () => {
    bin.classList.remove("sure");
    bin.setAttribute("aria-label", `Remove: ${title}`);
  });
  row.append(bin);
  return row;
}
