"use strict";
/* talk: the conversation that is shown, and answers as they come.
 *
 * An answer goes on when another conversation is looked at: each has a run of its own in `runs`. What has
 * come is kept each second, so that a page that is closed loses little; what was cut off says so. */

const talks = new Map(); /* by id, all of them */
const runs = new Map(); /* by the id of the conversation */
let shown = null; /* the conversation that is shown; null: a new one */
let stuck = true; /* the view follows the end */

/* ---- one message ---- */

function stats_text(node) {
  const s = node.stats;
  const parts = [];
  if (s && s.made) {
    parts.push(s.made + (s.made === 1 ? " token" : " tokens"));
    if (s.made_ms > 0 && s.made > 1) {
      parts.push(((s.made - 1) * 1000 / s.made_ms).toFixed(1) + " tokens/s");
    }
    parts.push("first after " + in_time(s.prompt_ms / 1000));
    parts.push(s.cached ? s.cached + " of " + s.prompt + " prompt tokens known" : s.prompt + " prompt tokens");
  }
  if (node.end === "length") {
    parts.push("ended at the limit");
  } else if (node.end === "stopped") {
    parts.push("stopped");
  } else if (node.end === "cut") {
    parts.push("cut off when the page was closed");
  }
  return parts.join(" \u00b7 ");
}

function thought_node(node, running) {
  const box = el("details", { class: "thought" });
  const label = el("span", {});
  const body = el("div", { class: "markdown" });
  box.append(el("summary", {}, icon("right"), label), body);
  box.update = () => {
    const busy = running() && !node.text;
    label.textContent = busy ? "Thinking\u2026" : "Thoughts";
    box.classList.toggle("busy", busy);
    if (box.open) {
      markdown_show(body, node.thought);
    }
  };
  box.addEventListener("toggle", box.update);
  return box;
}

/* Buttons to go through what stands in the same place. */
function beside_node(talk, node) {
  const all = talk_beside(talk, node), at = all.indexOf(node);
  if (all.length < 2) {
    return null;
  }
  const go = (to) => {
    if (!runs.has(talk.id) && all[to]) {
      talk.leaf = talk_end(talk, all[to].id);
      store.put(talk);
      show_talk();
    }
  };
  const before = icon_button("left", "Earlier version", () => go(at - 1));
  const after = icon_button("right", "Later version", () => go(at + 1));
  before.disabled = at === 0;
  after.disabled = at === all.length - 1;
  return el("span", { class: "beside" }, before, (at + 1) + " / " + all.length, after);
}

function actions_node(talk, node, last) {
  const copy = icon_button("copy", "Copy", () => copy_text(node.text, copy));
  const row = el("div", { class: "actions" }, beside_node(talk, node), copy);
  if (node.role === "user") {
    row.append(icon_button("edit", "Edit", () => edit_node(talk, node)));
  } else {
    row.append(icon_button("again", "Make this answer again", () => again(talk, node)));
    if (last && (node.end === "length" || node.end === "stopped" || node.end === "cut") && node.text) {
      row.append(icon_button("more", "Go on with this answer", () => go_on(talk, node)));
    }
    row.append(el("span", { class: "stats" }, stats_text(node)));
  }
  return row;
}

function error_node(node) {
  return node.error ? el("p", { class: "error", attrs: { role: "alert" } }, node.error) : null;
}

/* The item of the list that shows a message; `item.update` shows what has come of it since. */
function message_node(talk, node, last) {
  const item = el("li", { class: node.role, attrs: { "data-node": node.id } });
  if (node.role === "user") {
    item.append(el("div", { class: "said" }, node.text), actions_node(talk, node, last));
    return item;
  }
  const running = () => runs.has(talk.id) && runs.get(talk.id).node === node;
  const body = el("div", { class: "markdown" });
  let thought = null;
  item.append(body);
  item.update = () => {
    if (node.thought && !thought) {
      thought = thought_node(node, running);
      item.prepend(thought);
    }
    if (thought) {
      thought.update();
    }
    item.classList.toggle("running", running());
    item.classList.toggle("waits", running() && !node.text && !node.thought);
    markdown_show(body, node.text);
  };
  item.finish = () => {
    item.update();
    item.querySelectorAll(":scope > .actions, :scope > .error").forEach((n) => n.remove());
    item.append(...[error_node(node), actions_node(talk, node, last)].filter((n) => n));
  };
  if (running()) {
    item.update();
  } else {
    item.finish();
  }
  return item;
}

function edit_node(talk, node) {
  const item = document.querySelector('#talk > li[data-node="' + node.id + '"]');
  if (!item || runs.has(talk.id)) {
    return;
  }
  const field = el("textarea", { value: node.text, class: "edit", attrs: { "aria-label": "Edit the message" } });
  const send = () => {
    const text = field.value.trim();
    if (text && !runs.has(talk.id)) {
      answer(talk, talk_add(talk, node.parent, "user", text));
    }
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      send();
    } else if (event.key === "Escape") {
      event.stopPropagation();
      show_talk();
    }
  });
  field.addEventListener("input", () => fit_field(field));
  item.replaceChildren(field, el("div", { class: "edit-row" },
    el("button", { type: "button", on: { click: () => show_talk() } }, "Cancel"),
    el("button", { type: "button", class: "main", on: { click: send } }, "Send")));
  item.classList.add("editing");
  fit_field(field);
  field.focus();
}

/* ---- the view ---- */

function follow(force) {
  const view = $("scroll");
  if (stuck || force) {
    view.scrollTop = view.scrollHeight;
  }
  $("down").hidden = view.scrollHeight - view.scrollTop - view.clientHeight < 120;
}

function show_talk() {
  const path = shown ? talk_path(shown, shown.leaf) : [];
  $("welcome").hidden = path.length > 0;
  $("talk").hidden = path.length === 0;
  $("talk").replaceChildren(...path.map((node, i) => message_node(shown, node, i === path.length - 1)));
  $("title").textContent = shown ? shown.title || "Conversation" : "New conversation";
  document.title = shown && shown.title ? shown.title + " \u00b7 corm" : "corm";
  show_running();
  follow();
}

function show_running() {
  const running = shown !== null && runs.has(shown.id);
  $("send").hidden = running;
  $("stop").hidden = !running;
  document.body.classList.toggle("running", running);
}

function update_running(run) {
  run.drawn = false;
  if (shown === run.talk) {
    const item = $("talk").lastElementChild;
    if (item && item.update) {
      item.update();
      follow();
    }
  }
}

/* At most once a frame; frames do not come where the page is hidden. */
function draw_soon(run) {
  if (!run.drawn) {
    run.drawn = true;
    (document.hidden ? (f) => setTimeout(f, 250) : requestAnimationFrame)(() => update_running(run));
  }
}

/* ---- answers ---- */

/* What is said so far, as a request has it. */
function messages_to(talk, leaf) {
  return talk_path(talk, leaf).filter((n) => n.text || n.role === "user").map((n) => ({ role: n.role, content: n.text }));
}

/* Let the server say what comes behind `asked`: into a new node, or on in `node`. */
async function answer(talk, asked, node) {
  if (runs.has(talk.id)) {
    return;
  }
  const messages = messages_to(talk, node ? node.id : asked.id);
  const run = { talk, node: node || talk_add(talk, asked.id, "assistant", ""), stop: new AbortController(), kept: Date.now(), drawn: false };
  const at = run.node;
  at.end = "cut"; /* unless it comes to another end */
  at.error = null;
  talk.updated = Date.now();
  runs.set(talk.id, run);
  stuck = true;
  store.put(talk);
  show_list();
  if (shown === talk) {
    show_talk();
  }
  const came = () => {
    draw_soon(run);
    if (Date.now() - run.kept > 1000) {
      run.kept = Date.now();
      store.put(talk);
    }
  };
  try {
    at.end = await ask_turn(messages, run.stop.signal, {
      text: (t) => { at.text += t; came(); },
      thought: (t) => { at.thought += t; came(); },
      usage: (u, t) => {
        at.stats = { made: u.completion_tokens, prompt: u.prompt_tokens, cached: u.prompt_tokens_details ? u.prompt_tokens_details.cached_tokens : 0, prompt_ms: t.prompt_ms || 0, made_ms: t.predicted_ms || 0 };
      },
    });
  } catch (e) {
    at.end = run.stop.signal.aborted ? "stopped" : "error";
    if (at.end === "error") {
      at.error = e instanceof AskError ? e.message : "The server cannot be reached.";
      if (e.status === 401) {
        settings_show("This server asks for an API key.");
      }
    }
  }
  runs.delete(talk.id);
  store.put(talk);
  show_list();
  if (shown === talk) {
    const item = $("talk").lastElementChild;
    if (item && item.finish) {
      item.finish();
    }
    show_running();
    follow();
  }
}

function again(talk, node) {
  if (!runs.has(talk.id)) {
    answer(talk, talk.nodes[node.parent]);
  }
}

function go_on(talk, node) {
  if (!runs.has(talk.id)) {
    answer(talk, talk.nodes[node.parent], node);
  }
}

function stop_answer() {
  const run = shown && runs.get(shown.id);
  if (run) {
    run.stop.abort();
  }
}

function say(text) {
  if (!shown) {
    shown = talk_new();
    shown.title = text.split("\n")[0].slice(0, 80);
    talks.set(shown.id, shown);
  }
  answer(shown, talk_add(shown, shown.leaf, "user", text));
}
