// chats.js - conversations as trees of messages: an edited or repeated message becomes a sibling, nothing is lost.
// They are kept in the browser's own storage, one entry each.

const CHAT_PREFIX = "ds4.chat.";
const POINTS_KEPT = 60;
const POINT_MS_MIN = 50; // tokens that one read of the network brought share their time

const newId = () => [...crypto.getRandomValues(new Uint8Array(9))].map((b) => b.toString(36).padStart(2, "0")).join("");

class Chat {
  constructor(data) {
    this.id = data?.id ?? newId();
    this.title = data?.title ?? "";
    this.used = data?.used ?? Date.now();
    this.nodes = data?.nodes ?? []; // {id, parent, role, content, reasoning, thought_ms, stats, finish, trouble}
    this.head = data?.head ?? null; // the message that the next one follows
    this.stored = true; // false: too large for the browser's storage
    this.removed = false;
  }

  node(id) {
    return this.nodes.find((n) => n.id === id) ?? null;
  }

  // From the first message to the head.
  path() {
    const list = [];
    for (let n = this.node(this.head); n; n = this.node(n.parent)) list.unshift(n);
    return list;
  }

  siblings(node) {
    return this.nodes.filter((n) => n.parent === node.parent);
  }

  add(role, content, parent = this.head) {
    const node = { id: newId(), parent, role, content, reasoning: "" };
    this.nodes.push(node);
    this.head = node.id;
    if (!this.title && role === "user") this.title = content.trim().split("\n")[0].slice(0, 80);
    return node;
  }

  // Goes to the latest message below node.
  goTo(node) {
    let last = node;
    for (let next = last; next; next = this.nodes.findLast((n) => n.parent === last.id)) last = next;
    this.head = last.id;
  }

  save() {
    if (this.removed) return;
    this.used = Date.now();
    const { id, title, used, nodes, head } = this;
    try {
      localStorage.setItem(CHAT_PREFIX + id, JSON.stringify({ id, title, used, nodes, head }));
      this.stored = true;
    } catch {
      this.stored = false;
    }
  }

  remove() {
    this.removed = true;
    localStorage.removeItem(CHAT_PREFIX + this.id);
  }

  // What was put there by hand or by an older page is not trusted to have a shape. null when it has none.
  static read(text) {
    try {
      const { id, title, used, nodes, head } = JSON.parse(text), kept = [], ids = new Set([null]);
      if (typeof id !== "string") return null;
      for (const n of nodes) {
        if (typeof n.id !== "string" || ids.has(n.id) || !ids.has(n.parent)) return null; // a parent comes first
        if (typeof n.content !== "string" || !["user", "assistant", "system"].includes(n.role)) return null;
        ids.add(n.id);
        kept.push(Chat.readNode(n));
      }
      return ids.has(head) ? new Chat({ id, title: String(title ?? ""), used: Number(used) || 0, nodes: kept, head }) :
        null;
    } catch {
      return null;
    }
  }

  static readNode({ id, parent, role, content, reasoning, thought_ms, stats, finish, trouble }) {
    const text = (value) => (typeof value === "string" ? value : undefined), number = (value) => Number(value) || 0;
    return {
      id, parent, role, content, reasoning: text(reasoning) ?? "", thought_ms: number(thought_ms),
      finish: text(finish), trouble: text(trouble),
      stats: stats && { n_prompt: number(stats.n_prompt), n_reused: number(stats.n_reused), n_out: number(stats.n_out),
        speed: number(stats.speed), points: [...(stats.points ?? [])].slice(0, POINTS_KEPT).map(number) },
    };
  }

  static all() {
    const list = [];
    for (let i = 0; i < localStorage.length; i++) {
      const key = localStorage.key(i);
      const chat = key.startsWith(CHAT_PREFIX) ? Chat.read(localStorage.getItem(key)) : null;
      if (chat) list.push(chat);
    }
    return list.sort((a, b) => b.used - a.used);
  }
}

// Speed over an answer: when each token came, as few points of tokens a second.
class Speed {
  constructor() {
    this.times = [];
  }

  tick(now = performance.now()) {
    this.times.push(now);
  }

  get n() {
    return this.times.length;
  }

  now() {
    const last = this.times.slice(-12);
    return last.length < 2 ? 0 : ((last.length - 1) * 1000) / Math.max(last.at(-1) - last[0], 0.001);
  }

  average() {
    return this.n < 2 ? 0 : ((this.n - 1) * 1000) / Math.max(this.times.at(-1) - this.times[0], 0.001);
  }

  points() {
    const step = Math.max(4, (this.n - 1) / POINTS_KEPT), points = [];
    for (let a = 0, b = 1; b < this.n; b++) {
      const ms = this.times[b] - this.times[a];
      if (b - a < step || ms < POINT_MS_MIN) continue;
      points.push(Math.round(((b - a) * 1e4) / ms) / 10);
      a = b;
    }
    return points;
  }
}

const settings = {
  values: { system: "", temperature: "", tokens: "", theme: "auto", think: "high" },
  key: "",
  load() {
    try {
      const kept = JSON.parse(localStorage.getItem("ds4.settings") ?? "{}");
      for (const name of Object.keys(this.values)) if (typeof kept[name] === "string") this.values[name] = kept[name];
      this.key = sessionStorage.getItem("ds4.key") ?? "";
    } catch {
      // The presets stand.
    }
  },
  save() {
    try {
      localStorage.setItem("ds4.settings", JSON.stringify(this.values));
      sessionStorage.setItem("ds4.key", this.key);
    } catch {
      // Kept until the page is closed.
    }
  },
};
