"use strict";
/* main: the list of conversations, the field, keys, and the beginning. */

const IDEAS = ["Tell me a story about a lost kite.", "Explain how a bicycle stays upright.", "Write a small C program that counts words."];

/* ---- the list ---- */

function open_talk(id) {
  shown = talks.get(id) || null;
  try {
    sessionStorage.setItem("corm.shown", shown ? shown.id : "");
  } catch (e) { /* then the next page begins anew */ }
  stuck = true;
  close_side();
  show_list();
  show_talk();
  focus_entry();
}

function remove_talk(talk) {
  const run = runs.get(talk.id);
  if (run) {
    run.stop.abort();
  }
  talks.delete(talk.id);
  store.remove(talk.id);
  if (shown === talk) {
    open_talk(null);
  }
  show_list();
  toast("Removed \u201c" + (talk.title || "Conversation").slice(0, 40) + "\u201d", "Undo", () => {
    talks.set(talk.id, talk);
    store.put(talk);
    show_list();
  });
}

function rename_talk(talk, item) {
  const field = el("input", { class: "rename", value: talk.title, attrs: { "aria-label": "Name" } });
  let done = false;
  const end = (take) => {
    if (!done) {
      done = true;
      if (take && field.value.trim()) {
        talk.title = field.value.trim().slice(0, 200);
        store.put(talk);
      }
      show_list();
      if (shown === talk) {
        $("title").textContent = talk.title;
      }
    }
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === "Escape") {
      event.stopPropagation();
      end(event.key === "Enter");
    }
  });
  field.addEventListener("blur", () => end(true));
  item.replaceChildren(field);
  field.select();
}

function day_of(time) {
  const days = Math.floor(new Date().setHours(0, 0, 0, 0) / 864e5) - Math.floor(new Date(time).setHours(0, 0, 0, 0) / 864e5);
  return days <= 0 ? "Today" : days === 1 ? "Yesterday" : days < 8 ? "This week" : "Earlier";
}

function talk_item(talk) {
  const item = el("li", { class: shown === talk ? "here" : "" });
  const open = el("button", { type: "button", class: "open", on: { click: () => open_talk(talk.id) } },
    runs.has(talk.id) ? el("i", { class: "pulse", title: "is being answered" }) : null, el("span", {}, talk.title || "Conversation"));
  if (shown === talk) {
    open.setAttribute("aria-current", "true");
  }
  item.append(open, icon_button("edit", "Rename", () => rename_talk(talk, item)), icon_button("bin", "Remove", () => remove_talk(talk)));
  return item;
}

function show_list() {
  const wish = $("find").value.trim().toLowerCase();
  const fits = (t) => !wish || t.title.toLowerCase().includes(wish) || t.nodes.some((n) => n.text.toLowerCase().includes(wish));
  const items = [];
  let day = "";
  for (const talk of [...talks.values()].filter(fits).sort((a, b) => b.updated - a.updated)) {
    if (day_of(talk.updated) !== day) {
      day = day_of(talk.updated);
      items.push(el("li", { class: "day" }, day));
    }
    items.push(talk_item(talk));
  }
  $("talks").replaceChildren(...items);
}

/* ---- what opens and closes ---- */

const narrow = matchMedia("(max-width: 760px)"), coarse = matchMedia("(pointer: coarse)");

function close_side() {
  document.body.classList.remove("side-open");
  $("shade").hidden = true;
}

function toggle_side() {
  if (narrow.matches) {
    const open = document.body.classList.toggle("side-open");
    $("shade").hidden = !open;
  } else {
    settings.set("side", document.body.classList.toggle("side-shut") ? "shut" : "");
  }
}

/* ---- the field ---- */

function fit_field(field) {
  field.style.height = "auto";
  field.style.height = Math.min(field.scrollHeight + 2, innerHeight * 0.4) + "px";
}

/* To where one writes; on phones that would bring up the keyboard. Leaving it first matters: a browser that has
 * put the focus back itself, from a dialogue that opened by itself, takes no text there. */
function focus_entry() {
  if (!coarse.matches) {
    $("entry").blur();
    $("entry").focus({ preventScroll: true });
  }
}

function send_entry() {
  const text = $("entry").value.trim();
  if (!text || (shown && runs.has(shown.id))) {
    return;
  }
  $("entry").value = "";
  keep_draft();
  fit_field($("entry"));
  say(text);
  try {
    sessionStorage.setItem("corm.shown", shown.id);
  } catch (e) { /* as above */ }
}

/* What is being written outlives a reload. */
function keep_draft() {
  try {
    sessionStorage.setItem("corm.draft", $("entry").value);
  } catch (e) { /* as above */ }
}

/* ---- keys ---- */

const last_of = (role) => shown && talk_path(shown, shown.leaf).reverse().find((n) => n.role === role);
const KEYS = [
  { keys: ["Enter"], says: "send the message" },
  { keys: ["Shift", "Enter"], says: "a new line" },
  { keys: ["Esc"], says: "stop the answer, or close what is open" },
  { keys: ["\u2191"], says: "in an empty field: edit the last message" },
  { keys: ["/"], says: "to the message field", key: "/", run: () => $("entry").focus() },
  { keys: ["n"], says: "a new conversation", key: "n", run: () => open_talk(null) },
  { keys: ["r"], says: "make the last answer again", key: "r", run: () => { const n = last_of("assistant"); if (n) { again(shown, n); } } },
  { keys: ["e"], says: "edit the last message", key: "e", run: () => { const n = last_of("user"); if (n) { edit_node(shown, n); } } },
  { keys: ["b"], says: "the list of conversations", key: "b", run: toggle_side },
  { keys: ["l"], says: "the live panel", key: "l", run: () => panel_toggle() },
  { keys: ["s"], says: "settings", key: "s", run: () => settings_show() },
  { keys: ["?"], says: "this list", key: "?", run: () => $("keys").showModal() },
];

function on_key(event) {
  const target = event.target;
  const writes = target.matches("input, textarea, select");
  if (document.querySelector("dialog[open]") || event.ctrlKey || event.metaKey || event.altKey) {
    return;
  }
  if (event.key === "Escape") {
    if (document.body.classList.contains("side-open")) {
      close_side();
    } else if (shown && runs.has(shown.id)) {
      stop_answer();
    } else if (narrow.matches && !$("panel").hidden) {
      panel_toggle(false);
    } else if (writes) {
      target.blur();
    }
  } else if (event.key === "ArrowUp" && target === $("entry") && !target.value && last_of("user")) {
    event.preventDefault();
    edit_node(shown, last_of("user"));
  } else if (!writes) {
    const key = KEYS.find((k) => k.key === event.key);
    if (key) {
      event.preventDefault();
      key.run();
    }
  }
}

/* ---- the beginning ---- */

function show_server(error) {
  const p = server.props;
  $("model").hidden = !server.reached;
  $("model").textContent = server.name;
  $("welcome-model").textContent = server.reached ? server.name : "corm";
  if (error) {
    $("welcome-facts").textContent = error.status === 401 ? "This server asks for an API key: see the settings." : error instanceof AskError ? error.message : "The server cannot be reached.";
  } else if (p) {
    $("welcome-facts").textContent = in_bytes(p.memory_bytes) + " of memory \u00b7 " + p.device + " " + p.isa + " \u00b7 context of " + p.default_generation_settings.n_ctx.toLocaleString("en") + " tokens";
  }
}

async function connect() {
  const error = await server_look();
  show_server(error);
  settings_defaults();
  panel_connect();
  if (error && error.status === 401) {
    settings_show(settings.key() ? "The server does not know this API key." : "This server asks for an API key.");
  }
}

function wire() {
  document.querySelectorAll("[data-icon]").forEach((n) => n.replaceWith(icon(n.dataset.icon)));
  document.querySelectorAll("[data-close]").forEach((n) => n.addEventListener("click", () => (n.dataset.close === "panel" ? panel_toggle(false) : close_side())));
  $("new").addEventListener("click", () => open_talk(null));
  $("show-side").addEventListener("click", toggle_side);
  $("shade").addEventListener("click", close_side);
  $("find").addEventListener("input", show_list);
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    send_entry();
  });
  $("stop").addEventListener("click", stop_answer);
  $("show-keys").addEventListener("click", () => $("keys").showModal());
  $("entry").addEventListener("input", () => {
    fit_field($("entry"));
    keep_draft();
  });
  $("entry").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && !coarse.matches) {
      event.preventDefault();
      send_entry();
    }
  });
  $("scroll").addEventListener("scroll", () => {
    const view = $("scroll"), left = view.scrollHeight - view.scrollTop - view.clientHeight;
    stuck = left < 60;
    $("down").hidden = left < 120;
  });
  $("down").addEventListener("click", () => {
    stuck = true;
    follow(true);
  });
  addEventListener("keydown", on_key);
  addEventListener("pagehide", () => runs.forEach((run) => store.put(run.talk)));
  document.addEventListener("visibilitychange", () => runs.forEach(update_running));
  $("ideas").append(...IDEAS.map((text) => el("button", { type: "button", on: { click: () => say(text) } }, text)));
  $("key-table").append(...KEYS.map((k) => el("tr", {}, el("td", {}, ...k.keys.map((name) => el("kbd", {}, name))), el("td", {}, k.says))));
}

async function start() {
  wire();
  settings_start();
  panel_start();
  document.body.classList.toggle("side-shut", settings.get("side") === "shut");
  const kept = await store.open();
  if (!kept) {
    $("side-note").textContent = "This browser keeps nothing: conversations go with the page.";
  }
  for (const talk of await store.all()) {
    talks.set(talk.id, talk);
  }
  try {
    shown = talks.get(sessionStorage.getItem("corm.shown")) || null;
    $("entry").value = sessionStorage.getItem("corm.draft") || "";
  } catch (e) { /* begins anew */ }
  fit_field($("entry"));
  show_list();
  show_talk();
  document.body.classList.add("ready");
  await connect();
}

start();
