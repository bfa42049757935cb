// page.js - the conversation at work: what the person does, the answer in progress, the lists, the settings. Last of
// the files of the script.

const STORE_PATIENCE_MS = 1500, STORE_PATIENCE_MAX_MS = 60000; // the store writes after the answer, a busy disk late

const state = {
  chat: new Chat(),
  chats: [],
  views: new Map(), // message id -> MessageView
  model: { id: "deepseek-v4-flash", name: "", ctx: 0 },
  live: null, // the answer in progress: {node, chat, abort, phase, ...}
  follow: true, // the end of the log stays in sight
  stored: null, // the stored conversations that are listed: keys and lengths
  storedTimer: 0,
};

const acts = {
  busy: () => state.live !== null,
  branch(node) {
    state.chat.goTo(node);
    state.chat.save();
    showChat();
    state.views.get(node.id)?.element.querySelector(".branch button:not(:disabled)")?.focus();
  },
  again(node) {
    if (state.live) return;
    state.chat.head = node.parent;
    answer();
  },
  edit(node, text) {
    if (state.live) return;
    state.chat.add("user", text, node.parent);
    answer();
  },
};

const say = (text) => (byId("status").textContent = text);

// ---- what is shown -----------------------------------------------------------------------------------------------

function showChat() {
  const { chat } = state, path = chat.path();
  byId("title").textContent = chat.title || "New conversation";
  document.title = chat.title ? `${chat.title} - ds4` : "ds4";
  byId("empty").hidden = path.length > 0;
  state.views.clear();
  for (const node of path) state.views.set(node.id, new MessageView(chat, node, acts));
  if (state.live?.chat === chat) state.views.get(state.live.node.id)?.update(state.live);
  byId("messages").replaceChildren(...path.map((node) => state.views.get(node.id).element));
  showContext();
  showLists();
  toEnd(true);
}

function showLists() {
  const mine = state.chats.map((chat) => chatRow(chat.title, ago(chat.used), chat === state.chat, () => openChat(chat),
    () => removeChat(chat)));
  byId("mine").replaceChildren(...mine);
  byId("mine-empty").hidden = mine.length > 0;
}

function showContext() {
  const last = state.chat.path().findLast((n) => n.stats?.n_prompt)?.stats;
  const live = state.live?.chat === state.chat ? state.live : null;
  const used = live?.n_prompt ? live.n_prompt + live.speed.n : last ? last.n_prompt + last.n_out : 0;
  const { ctx } = state.model, meter = byId("context");
  meter.setAttribute("aria-valuemax", Math.max(ctx, 1));
  meter.setAttribute("aria-valuenow", Math.min(used, ctx));
  meter.setAttribute("aria-valuetext", `${whole(used)} of ${whole(ctx)} tokens`);
  meter.classList.toggle("full", used > ctx * 0.9);
  byId("context-text").textContent = ctx ? `${whole(used)} / ${whole(ctx)}` : "";
  byId("context-fill").style.width = `${ctx ? Math.min((100 * used) / ctx, 100) : 0}%`;
}

function toEnd(force = false) {
  const log = byId("log");
  if (force || state.follow) log.scrollTop = log.scrollHeight;
}

function showBusy() {
  byId("send").hidden = state.live !== null;
  byId("stop").hidden = state.live === null;
  byId("messages").setAttribute("aria-busy", state.live ? "true" : "false");
}

// ---- an answer ---------------------------------------------------------------------------------------------------

function messagesOf(path) {
  return path.filter((n) => n.role !== "assistant" || n.content || n.reasoning).map((n) => n.role === "assistant" &&
    n.reasoning ? { role: n.role, content: n.content, reasoning_content: n.reasoning } :
    { role: n.role, content: n.content });
}

let drawing = false;
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    if (!state.live || state.live.chat !== state.chat) return;
    state.views.get(state.live.node.id)?.update(state.live);
    showContext();
    toEnd();
  });
}

function phase(live, name) {
  if (live.phase === name) return;
  if (live.phase === "think") live.node.thought_ms = Math.round(performance.now() - live.since);
  live.phase = name;
  live.since = performance.now();
  say({ read: "Reading the conversation", think: "Thinking", say: "Answering" }[name] ?? "");
}

function listen(live) {
  const { node } = live, heard = (name, add) => {
    phase(live, name);
    live.speed.tick();
    add();
    draw();
  };
  return {
    progress(p) {
      live.progress = p;
      live.n_prompt = p.total;
      phase(live, "read");
      draw();
    },
    think: (text) => heard("think", () => (node.reasoning += text)),
    text: (text) => heard("say", () => (node.content += text)),
    end(finish, timings) {
      node.finish = finish;
      live.timings = timings;
    },
    usage: (usage) => (live.usage = usage),
  };
}

function statsOf(live) {
  const { speed, timings, usage } = live;
  return {
    n_prompt: usage?.prompt_tokens ?? live.n_prompt ?? 0,
    n_reused: usage?.prompt_tokens_details?.cached_tokens ?? live.progress?.cache ?? 0,
    n_out: usage?.completion_tokens ?? speed.n,
    speed: timings?.predicted_per_second || speed.average(),
    points: speed.points(),
  };
}

async function answer() {
  const { chat } = state, path = chat.path(), node = chat.add("assistant", "");
  const live = { node, chat, abort: new AbortController(), phase: "wait", since: performance.now(), speed: new Speed() };
  state.live = live;
  if (!state.chats.includes(chat)) state.chats.unshift(chat);
  chat.save();
  showChat();
  showBusy();
  state.follow = true;
  const clock = setInterval(draw, 250);
  try {
    await ask(messagesOf(path), state.model.id, live.abort.signal, listen(live));
    say(`Answered with ${whole(statsOf(live).n_out)} tokens`);
  } catch (error) {
    if (error.name === "AbortError") {
      node.finish = "stopped";
      say("Stopped");
    } else {
      node.trouble = error.message;
      if (error.status === 401) openSettings("set-key");
    }
  }
  clearInterval(clock);
  if (live.phase === "think") node.thought_ms = Math.round(performance.now() - live.since);
  node.stats = statsOf(live);
  state.live = null;
  chat.save();
  if (!chat.stored) say("This conversation is too large to be kept in this browser.");
  if (state.chat === chat) {
    state.views.get(node.id)?.update();
    showContext();
    toEnd();
    state.views.forEach((view) => view.updateTail(null));
  }
  showLists();
  showBusy();
  if (!byId("stored-section").hidden) awaitStored(STORE_PATIENCE_MS);
}

function send() {
  const field = byId("ask"), text = field.value;
  if (!text.trim() || state.live) return;
  field.value = "";
  fit(field);
  state.chat.add("user", text);
  answer();
}

const stop = () => state.live?.abort.abort();

// ---- lists -------------------------------------------------------------------------------------------------------

function openChat(chat) {
  state.chat = chat;
  showChat();
  closeSide();
  byId("ask").focus();
}

function removeChat(chat) {
  if (state.live?.chat === chat) stop();
  chat.remove();
  state.chats = state.chats.filter((c) => c !== chat);
  if (state.chat === chat) state.chat = new Chat();
  showChat();
  say("Removed");
  byId("new").focus();
}

// A stored conversation becomes one of the page's own; going on from it finds the state that was kept for it.
async function openStored(key) {
  try {
    const { messages } = await getJson(`/v1/ds4/conversations/${key}`);
    const chat = new Chat();
    for (const m of messages) {
      const node = chat.add(m.role, m.content ?? "");
      node.reasoning = m.reasoning_content ?? "";
    }
    openChat(chat);
  } catch (error) {
    say(error.message);
    byId("stored-note").textContent = error.message;
    byId("stored-note").hidden = false;
  }
}

async function showStored() {
  const { available, data: list } = await getJson("/v1/ds4/conversations").catch(() => ({ available: false }));
  byId("stored-section").hidden = !available;
  if (!available) return;
  const shown = list.map((entry) => `${entry.key} ${entry.n_tokens}`).join();
  if (shown === state.stored) return; // the focus may be in it
  state.stored = shown;
  byId("stored").replaceChildren(...list.map((entry) => chatRow(entry.title || entry.key.slice(0, 8),
    `${whole(entry.n_tokens)} tokens \u00b7 ${ago(entry.last_use * 1000)}`, false, () => openStored(entry.key), null)));
  byId("stored-note").textContent = "Nothing is stored yet.";
  byId("stored-note").hidden = list.length > 0;
}

// Shows what is stored in wait_ms, and again after twice as long, until that is too long.
function awaitStored(wait_ms) {
  clearTimeout(state.storedTimer);
  if (wait_ms > STORE_PATIENCE_MAX_MS) return;
  state.storedTimer = setTimeout(() => showStored().then(() => awaitStored(2 * wait_ms)), wait_ms);
}

function openSide() {
  byId("side").classList.add("open");
  byId("shade").hidden = false;
  byId("side-open").setAttribute("aria-expanded", "true");
  byId("side-close").focus();
}

function closeSide() {
  if (!byId("side").classList.contains("open")) return;
  byId("side").classList.remove("open");
  byId("shade").hidden = true;
  byId("side-open").setAttribute("aria-expanded", "false");
  byId("side-open").focus();
}

// ---- settings ----------------------------------------------------------------------------------------------------

function showTheme() {
  const { theme } = settings.values;
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
}

function openSettings(focus = "set-system") {
  for (const name of ["system", "temperature", "tokens", "theme"]) byId(`set-${name}`).value = settings.values[name];
  byId("set-key").value = settings.key;
  byId("settings").showModal();
  byId(focus).focus();
}

function closeSettings() {
  if (byId("settings").returnValue !== "save") return;
  for (const name of ["system", "temperature", "tokens", "theme"]) settings.values[name] = byId(`set-${name}`).value;
  settings.key = byId("set-key").value.trim();
  settings.save();
  showTheme();
  connect();
}

async function connect() {
  const line = byId("model-line");
  try {
    const model = (await getJson("/v1/models")).data[0];
    state.model = { id: model.id, name: model.name, ctx: model.context_length };
    line.textContent = `${model.name}, on this server, ${whole(model.context_length)} tokens of context`;
    line.classList.remove("bad");
    showContext();
    showStored();
  } catch (error) {
    line.textContent = error.message;
    line.classList.add("bad");
    if (error.status === 401 && !byId("settings").open) openSettings("set-key");
  }
}

// ---- beginning ---------------------------------------------------------------------------------------------------

function fit(field) {
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

function watchScrolling() {
  const log = byId("log");
  log.addEventListener("scroll", () => {
    state.follow = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
    byId("to-end").hidden = state.follow;
  });
  byId("to-end").addEventListener("click", () => {
    toEnd(true);
    byId("ask").focus();
  });
}

function listenToKeys() {
  byId("ask").addEventListener("input", (event) => fit(event.target));
  byId("ask").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    }
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape" || byId("settings").open || event.target.closest?.(".editor")) return;
    if (byId("side").classList.contains("open")) closeSide();
    else stop();
  });
}

function begin() {
  settings.load();
  showTheme();
  byId("think").value = settings.values.think;
  byId("think").addEventListener("change", (event) => {
    settings.values.think = event.target.value;
    settings.save();
  });
  byId("composer").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  byId("stop").addEventListener("click", () => {
    stop();
    byId("ask").focus();
  });
  byId("new").addEventListener("click", () => openChat(new Chat()));
  byId("open-settings").addEventListener("click", () => openSettings());
  byId("settings").addEventListener("close", closeSettings);
  byId("set-cancel").addEventListener("click", () => byId("settings").close("cancel"));
  byId("side-open").addEventListener("click", openSide);
  byId("side-close").addEventListener("click", closeSide);
  byId("shade").addEventListener("click", closeSide);
  listenToKeys();
  watchScrolling();
  state.chats = Chat.all();
  showChat();
  showBusy();
  connect();
}

begin();
