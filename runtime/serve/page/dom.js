"use strict";
/* dom: elements, icons and short notices. Everything that is shown is made here as nodes: no string
 * ever becomes markup, which the server's policy forbids anyway. */

const $ = (id) => document.getElementById(id);

/* An element: `props` are properties, but for `class`, `on` (events), `attrs`. Children are nodes or
 * texts; null ones are left out. */
function el(tag, props, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (name === "class") {
      node.className = value;
    } else if (name === "on") {
      for (const [event, run] of Object.entries(value)) {
        node.addEventListener(event, run);
      }
    } else if (name === "attrs") {
      for (const [key, text] of Object.entries(value)) {
        node.setAttribute(key, text);
      }
    } else {
      node[name] = value;
    }
  }
  for (const child of children) {
    if (child !== null && child !== undefined) {
      node.append(child);
    }
  }
  return node;
}

/* Lines of a 24 by 24 picture. */
const icons = {
  plus: "M12 5v14M5 12h14",
  cross: "M6 6l12 12M18 6L6 18",
  menu: "M4 7h16M4 12h16M4 17h10",
  find: "M11 5a6 6 0 100 12 6 6 0 000-12zM15.5 15.5L20 20",
  up: "M12 19V5M6 11l6-6 6 6",
  down: "M12 5v14M6 13l6 6 6-6",
  left: "M14 6l-6 6 6 6",
  right: "M10 6l6 6-6 6",
  stop: "M8 8h8v8H8z",
  copy: "M9 9h10v10H9zM5 15V5h10",
  check: "M5 13l4 4L19 7",
  edit: "M5 19l1-4L16 5l3 3L9 18zM14 7l3 3",
  again: "M18.5 9A7 7 0 105 13M19 4v5h-5",
  more: "M6 12h9M11 7l5 5-5 5M19 6v12",
  bin: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  grid: "M4 4h6v6H4zM14 4h6v6h-6zM4 14h6v6H4zM14 14h6v6h-6z",
  grow: "M14 4h6v6M20 4l-7 7M10 20H4v-6M4 20l7-7",
  gear: "M12 9a3 3 0 100 6 3 3 0 000-6zM12 3v3M12 18v3M3 12h3M18 12h3M5.6 5.6l2.2 2.2M16.2 16.2l2.2 2.2M5.6 18.4l2.2-2.2M16.2 7.8l2.2-2.2",
  wrap: "M4 6h16M4 12h13a3 3 0 010 6h-4M15 15l-3 3 3 3M4 18h4",
};

function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const path = document.createElementNS(space, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", icons[name]);
  svg.append(path);
  return svg;
}

function icon_button(name, label, run) {
  return el("button", { class: "plain", type: "button", title: label, attrs: { "aria-label": label }, on: { click: run } }, icon(name));
}

/* A notice for some seconds; with `action`, a button to act on it. */
function toast(text, action, run) {
  const node = el("div", { class: "toast" }, el("span", {}, text));
  const leave = () => node.remove();
  if (action) {
    node.append(el("button", { type: "button", on: { click: () => { leave(); run(); } } }, action));
  }
  $("toasts").append(node);
  setTimeout(leave, action ? 8000 : 4000);
}

async function copy_text(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch (e) { /* not over plain HTTP from another machine: the older way */
    const field = el("textarea", { value: text, class: "off" });
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  button.replaceChildren(icon("check"));
  setTimeout(() => button.replaceChildren(icon("copy")), 1200);
}

/* 1536000 -> "1.5 MB". */
function in_bytes(n) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let u = 0;
  while (n >= 999.5 && u < units.length - 1) {
    n /= 1000;
    u++;
  }
  return (u === 0 || n >= 99.95 ? n.toFixed(0) : n >= 9.95 ? n.toFixed(1) : n.toFixed(2)) + " " + units[u];
}

/* 31700000 -> "31.7 M". */
function in_short(n) {
  const units = ["", " k", " M", " B", " T"];
  let u = 0;
  while (n >= 999.5 && u < units.length - 1) {
    n /= 1000;
    u++;
  }
  return (u === 0 ? n.toFixed(0) : n >= 99.95 ? n.toFixed(0) : n.toFixed(1)) + units[u];
}

function in_time(seconds) {
  if (seconds < 0.0995) {
    return (seconds * 1000).toFixed(0) + " ms";
  }
  if (seconds < 99.5) {
    return seconds.toFixed(1) + " s";
  }
  return Math.floor(seconds / 60) + " min " + Math.floor(seconds % 60) + " s";
}
