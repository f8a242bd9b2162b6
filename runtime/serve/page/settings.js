"use strict";
/* settings: the dialogue for what each request says, colours, and the key. */

const SETTING_NUMBERS = ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"];

/* What the server takes where a field is empty. */
function settings_defaults() {
  const had = server.props && server.props.default_generation_settings;
  if (!had) {
    return;
  }
  for (const name of ["temperature", "top_p", "top_k", "min_p"]) {
    const value = had.params && had.params[name];
    $("set-" + name).placeholder = value === undefined || value === null ? "" : String(value);
  }
}

function settings_show(error) {
  settings_defaults();
  for (const name of [...SETTING_NUMBERS, "system", "thinking", "theme"]) {
    $("set-" + name).value = settings.get(name);
  }
  $("set-key").value = settings.key();
  $("set-keep-key").checked = settings.get("keep_key") === true;
  $("set-error").hidden = !error;
  $("set-error").textContent = error || "";
  if (!$("settings").open) {
    $("settings").showModal();
  }
  if (error) {
    $("set-key").focus();
  }
}

/* Takes over what is there; a number that is none stays as it was. */
function settings_take() {
  for (const name of [...SETTING_NUMBERS, "system", "thinking", "theme"]) {
    const field = $("set-" + name);
    if (field.validity.valid) {
      settings.set(name, field.value);
    }
  }
  const key = $("set-key").value.trim(), keep = $("set-keep-key").checked;
  if (key !== settings.key() || keep !== settings.get("keep_key")) {
    settings.set("keep_key", keep);
    settings_key_changed(key, keep);
  }
  apply_theme();
}

function settings_key_changed(key, keep) {
  settings.set_key(key, keep);
  connect();
}

/* ---- out of the browser and into it ---- */

function export_talks() {
  const text = JSON.stringify({ corm: 1, talks: [...talks.values()] }, null, 1);
  const url = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  el("a", { href: url, download: "corm-conversations.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

async function import_talks(file) {
  let read = [];
  try {
    const value = JSON.parse(await file.text());
    read = (Array.isArray(value.talks) ? value.talks : []).map(talk_read).filter((t) => t);
  } catch (e) { /* told below */ }
  for (const talk of read) {
    talks.set(talk.id, talk);
    await store.put(talk);
  }
  toast(read.length ? "Read " + read.length + (read.length === 1 ? " conversation" : " conversations") : file.name + " holds no conversations of this page");
  show_list();
}

function settings_start() {
  $("show-settings").addEventListener("click", () => settings_show());
  $("settings").addEventListener("close", settings_take);
  document.querySelectorAll("dialog").forEach((d) => d.addEventListener("close", focus_entry));
  $("export").addEventListener("click", export_talks);
  $("import").addEventListener("click", () => $("import-file").click());
  $("import-file").addEventListener("change", async (event) => {
    for (const file of event.target.files) {
      await import_talks(file);
    }
    event.target.value = "";
  });
  $("set-theme").addEventListener("change", () => {
    settings.set("theme", $("set-theme").value);
    apply_theme();
  });
}
