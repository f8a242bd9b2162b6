"use strict";
/* store: conversations, kept in this browser (IndexedDB), and settings (localStorage).
 *
 * A conversation is a tree: `nodes` by number, each with the number of its parent (-1: none), so that
 * an edited question and an answer that was made again stand beside the earlier ones. `leaf` is the
 * node at whose end the conversation stands. */

const store = {
  db: null,

  open() {
    return new Promise((resolve) => {
      let asked;
      try {
        asked = indexedDB.open("corm", 1);
      } catch (e) {
        resolve(false);
        return;
      }
      asked.onupgradeneeded = () => asked.result.createObjectStore("talks", { keyPath: "id" });
      asked.onerror = () => resolve(false);
      asked.onsuccess = () => {
        store.db = asked.result;
        resolve(true);
      };
    });
  },

  request(mode, make) {
    return new Promise((resolve, reject) => {
      const t = store.db.transaction("talks", mode);
      const r = make(t.objectStore("talks"));
      t.oncomplete = () => resolve(r.result);
      t.onerror = t.onabort = () => reject(t.error);
    });
  },

  async all() {
    return store.db ? store.request("readonly", (s) => s.getAll()) : [];
  },

  async put(talk) {
    if (!store.db) {
      return;
    }
    try {
      await store.request("readwrite", (s) => s.put(talk));
    } catch (e) {
      toast("This conversation could not be kept: " + (e && e.message ? e.message : "no room"));
    }
  },

  async remove(id) {
    if (store.db) {
      await store.request("readwrite", (s) => s.delete(id));
    }
  },
};

function talk_new() {
  const now = Date.now();
  const random = crypto.getRandomValues(new Uint32Array(2));
  return { id: now.toString(36) + "-" + random[0].toString(36) + random[1].toString(36), title: "", created: now, updated: now, nodes: [], leaf: -1 };
}

/* Adds a node below `parent`, where the conversation stands then. */
function talk_add(talk, parent, role, text) {
  const node = { id: talk.nodes.length, parent, role, text, thought: "", end: null, error: null, stats: null, made: Date.now() };
  talk.nodes.push(node);
  talk.leaf = node.id;
  return node;
}

/* The nodes from the first to `leaf`. */
function talk_path(talk, leaf) {
  const path = [];
  for (let at = leaf; at >= 0; at = talk.nodes[at].parent) {
    path.unshift(talk.nodes[at]);
  }
  return path;
}

/* Nodes that stand in the same place. */
function talk_beside(talk, node) {
  return talk.nodes.filter((n) => n.parent === node.parent && n.role === node.role);
}

/* The newest end below a node. */
function talk_end(talk, id) {
  for (let i = talk.nodes.length - 1; i > id; i--) {
    if (talk.nodes[i].parent === id) {
      return talk_end(talk, i);
    }
  }
  return id;
}

/* Whether something read from a file is a conversation as above; what is not is left out. */
function talk_read(value) {
  if (!value || typeof value.id !== "string" || !Array.isArray(value.nodes) || !Number.isInteger(value.leaf)) {
    return null;
  }
  const talk = { id: value.id.slice(0, 100), title: String(value.title || "").slice(0, 200), created: Number(value.created) || 0, updated: Number(value.updated) || 0, nodes: [], leaf: value.leaf };
  for (const [i, n] of value.nodes.entries()) {
    if (!n || !Number.isInteger(n.parent) || n.parent < -1 || n.parent >= i || typeof n.text !== "string" || (n.role !== "user" && n.role !== "assistant")) {
      return null;
    }
    talk.nodes.push({ id: i, parent: n.parent, role: n.role, text: n.text, thought: String(n.thought || ""), end: typeof n.end === "string" ? n.end : null, error: typeof n.error === "string" ? n.error : null, stats: null, made: Number(n.made) || 0 });
  }
  return talk.leaf >= -1 && talk.leaf < talk.nodes.length ? talk : null;
}

/* ---- settings ---- */

const settings = {
  values: {},

  load() {
    try {
      const kept = JSON.parse(localStorage.getItem("corm.settings") || "{}");
      settings.values = kept && typeof kept === "object" ? kept : {};
    } catch (e) {
      settings.values = {};
    }
  },

  get(name) {
    const value = settings.values[name];
    return value === undefined ? "" : value;
  },

  set(name, value) {
    settings.values[name] = value;
    try {
      localStorage.setItem("corm.settings", JSON.stringify(settings.values));
    } catch (e) { /* then it holds as long as the page is open */ }
  },

  /* The key has a place of its own: with the tab it goes, unless asked to stay. */
  key() {
    try {
      return sessionStorage.getItem("corm.key") || localStorage.getItem("corm.key") || "";
    } catch (e) {
      return settings.only_key || "";
    }
  },

  set_key(key, keep) {
    settings.only_key = key;
    try {
      sessionStorage.removeItem("corm.key");
      localStorage.removeItem("corm.key");
      if (key) {
        (keep ? localStorage : sessionStorage).setItem("corm.key", key);
      }
    } catch (e) { /* as above */ }
  },
};

function apply_theme() {
  const wish = settings.get("theme");
  const dark = wish ? wish === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  dispatchEvent(new Event("theme"));
}
settings.load();
apply_theme();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", apply_theme);
