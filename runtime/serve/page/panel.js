"use strict";
/* panel: what the server does at this moment, as GET /panel tells it.
 *
 * It is asked while the panel is open and the page is seen: often while something is computed, seldom
 * else. Rates are differences over the last seconds; what the server tells are sums since its start. */

const PANEL_FAST = 250, PANEL_SLOW = 1000, PANEL_WINDOW = 8000, PANEL_LINE = 160, PANEL_LIT = 500;
const panel = {
  timer: 0,
  asking: false,
  looks: [], /* the last ones, with the time of each */
  speeds: [], /* tokens a second, for the line */
  busy: false,
  map: null, /* of the last look: rows of experts */
  came: null, /* when each expert came, by number; so that it lights up */
  frame: 0,
};

/* ---- asking ---- */

async function panel_ask() {
  if (panel.asking || $("panel").hidden || document.hidden) {
    return;
  }
  panel.asking = true;
  let wait = PANEL_SLOW;
  try {
    const look = await ask_json("panel");
    panel_take(look);
    wait = panel.busy ? PANEL_FAST : PANEL_SLOW;
    $("panel-note").hidden = true;
  } catch (e) {
    $("panel-note").hidden = false;
    $("panel-note").textContent = e.status === 401 ? "The panel needs the API key, too." : e instanceof AskError ? e.message : "The server cannot be reached.";
    panel.looks = [];
    wait = 3000;
  }
  panel.asking = false;
  clearTimeout(panel.timer);
  panel.timer = setTimeout(panel_ask, wait);
}

function panel_connect() {
  panel.looks = [];
  panel_ask();
}

function panel_toggle(open) {
  const now = open === undefined ? $("panel").hidden : open;
  $("panel").hidden = !now;
  $("show-panel").setAttribute("aria-expanded", now);
  settings.set("panel", now ? "open" : "");
  if (now) {
    panel_ask();
  }
}

/* ---- figures ---- */

/* What was added to a sum since the look that is `ago` milliseconds back, and in what time. */
function since(ago, read) {
  const last = panel.looks[panel.looks.length - 1];
  const first = panel.looks.find((l) => l.at >= last.at - ago) || last;
  return { value: read(last) - read(first), seconds: (last.at - first.at) / 1000 };
}

const share = (part, whole) => (whole > 0 ? part / whole : null);
const percent = (x) => (x === null ? "\u2013" : (100 * x).toFixed(x > 0.9995 || x < 0.0005 ? 0 : 1) + " %");

function panel_take(look) {
  look.at = performance.now();
  const before = panel.looks[panel.looks.length - 1];
  if (before && look.uptime_s < before.uptime_s) {
    panel.looks = []; /* the server was started anew */
    panel.came = null;
  }
  panel.looks.push(look);
  while (panel.looks.length > 2 && panel.looks[0].at < look.at - PANEL_WINDOW) {
    panel.looks.shift();
  }
  panel.busy = look.work.running > 0 || look.work.waiting > 0;
  const made = since(2000, (l) => l.work.made_tok);
  const speed = made.seconds > 0 ? made.value / made.seconds : 0;
  panel.speeds.push(panel.busy ? speed : 0);
  panel.speeds = panel.speeds.slice(-PANEL_LINE);
  $("speed").textContent = panel.busy || speed > 0 ? (speed < 9.95 ? speed.toFixed(1) : speed.toFixed(0)) : "0";
  const answers = look.work.running > 0 && since(1500, (l) => l.work.made_tok).value > 0;
  const phase = look.work.running === 0 ? "idle" : answers ? "answering" : "reading the prompt";
  $("phase").textContent = phase + (look.work.running > 1 ? " \u00d7 " + look.work.running : "") + (look.work.waiting ? ", " + look.work.waiting + " waiting" : "");
  $("phase").classList.toggle("busy", look.work.running > 0);
  draw_line();
  show_tiles(look);
  show_guesses(look);
  show_memory(look);
  take_map(look);
}

function tile(name, value, below) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, value, el("small", {}, below)));
}

function show_tiles(look) {
  const x = look.experts;
  const read = since(3000, (l) => l.experts.read_bytes);
  const hits = since(PANEL_WINDOW, (l) => l.experts.hits).value, misses = since(PANEL_WINDOW, (l) => l.experts.misses).value;
  const stall = since(3000, (l) => l.experts.stall_s);
  $("tiles").replaceChildren(
    tile("Read", in_bytes(read.seconds > 0 ? read.value / read.seconds : 0) + "/s", in_bytes(x.read_bytes) + " in all"),
    tile("Hits", percent(share(hits, hits + misses) ?? share(x.hits, x.hits + x.misses)), percent(share(x.hits, x.hits + x.misses)) + " in all"),
    tile("Stall", percent(stall.seconds > 0 ? Math.min(1, stall.value / stall.seconds) : 0), in_time(x.stall_s) + " in all"),
    tile("Answered", in_short(look.work.made_tok), "tokens"),
    tile("Prompts", in_short(look.work.prompt_tok), in_short(look.work.cached_tok) + " known before"),
    tile("Evicted", in_short(x.evictions), "chunks"));
}

function set_bar(bar, parts) {
  const sum = parts.reduce((a, b) => a + b, 0);
  [...bar.children].forEach((n, i) => {
    n.style.width = (sum > 0 ? (100 * parts[i]) / sum : 0) + "%";
  });
}

function show_guesses(look) {
  const x = look.experts, rest = Math.max(0, x.guessed_bytes - x.useful_bytes - x.wasted_bytes);
  set_bar($("guess-bar"), [x.useful_bytes, rest, x.wasted_bytes]);
  $("guess-sum").textContent = x.guessed_bytes ? in_bytes(x.useful_bytes) + " useful, " + in_bytes(x.wasted_bytes) + " wasted" : look.memory.streams ? "none yet" : "not needed: all experts fit";
}

function show_memory(look) {
  const m = look.memory;
  const parts = [["experts", m.cache_bytes], ["the rest of the model", m.trunk_bytes], ["conversations", m.kv_bytes + m.snapshot_bytes], ["workspace", Math.max(0, m.total_bytes - m.cache_bytes - m.trunk_bytes - m.kv_bytes - m.snapshot_bytes)]];
  const bar = $("memory-bar");
  if (!bar.children.length) {
    parts.forEach((p, i) => bar.append(el("i", { class: "part-" + i })));
  }
  set_bar(bar, parts.map((p) => p[1]));
  $("memory-sum").textContent = in_bytes(m.total_bytes) + " planned of " + in_bytes(m.budget_bytes);
  $("memory-legend").replaceChildren(...parts.map((p, i) => el("li", {}, el("i", { class: "key part-" + i }), p[0] + " " + in_bytes(p[1]))));
}

/* ---- the line of speeds ---- */

/* A canvas in the pixels of the screen: its context, and its size as the page counts. */
function canvas_of(node, height) {
  const w = node.clientWidth, h = height || node.clientHeight, scale = devicePixelRatio || 1;
  if (node.width !== Math.round(w * scale) || node.height !== Math.round(h * scale)) {
    node.width = Math.round(w * scale);
    node.height = Math.round(h * scale);
  }
  const g = node.getContext("2d");
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.clearRect(0, 0, w, h);
  return { g, w, h };
}

const colour = (name) => getComputedStyle($("panel")).getPropertyValue(name).trim();

function draw_line() {
  const { g, w, h } = canvas_of($("speed-line"));
  const most = Math.max(1, ...panel.speeds);
  const x = (i) => w - ((panel.speeds.length - 1 - i) * w) / (PANEL_LINE - 1), y = (v) => h - 2 - ((h - 6) * v) / most;
  g.beginPath();
  panel.speeds.forEach((v, i) => (i ? g.lineTo(x(i), y(v)) : g.moveTo(x(i), y(v))));
  g.strokeStyle = colour("--accent");
  g.lineWidth = 1.8;
  g.lineJoin = "round";
  g.stroke();
  g.lineTo(w, h);
  g.lineTo(x(0), h);
  g.closePath();
  g.globalAlpha = 0.14;
  g.fillStyle = colour("--accent");
  g.fill();
  g.globalAlpha = 1;
}

/* ---- the picture of experts ---- */

/* Of each expert: how much of it is in memory, 0 to 15, and how long ago it was used: 0 just now, 1 to 8
 * twice as long each, 15 long ago or never. */
function take_map(look) {
  const rows = look.map.map((r) => ({
    layer: r.layer,
    held: [...r.held].map((c) => parseInt(c, 16)),
    age: [...r.age].map((c) => parseInt(c, 16)),
  }));
  const n = rows.length ? rows[0].held.length : 0, now = performance.now();
  const fresh = !panel.came || panel.came.length !== rows.length * n;
  if (fresh) {
    panel.came = new Float64Array(rows.length * n).fill(-1e9);
  }
  let whole = 0, part = 0;
  rows.forEach((row, r) => row.held.forEach((held, e) => {
    whole += held === 15;
    part += held > 0 && held < 15;
    const before = panel.map && !fresh && panel.map[r].held[e];
    if (!fresh && held > 0 && before === 0) {
      panel.came[r * n + e] = now;
    }
  }));
  panel.map = rows;
  const all = rows.length * n;
  $("map-sum").textContent = all ? (whole + part).toLocaleString("en") + " of " + all.toLocaleString("en") : "none";
  $("map").setAttribute("aria-label", "Of " + all + " experts in " + rows.length + " layers, " + whole + " are in memory as a whole and " + part + " in part");
  draw_map();
}

function mix(a, b, t) {
  return a.map((x, i) => Math.round(x + (b[i] - x) * t));
}

function rgb_of(name) {
  const hex = colour(name);
  return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
}

function map_size() {
  const rows = panel.map.length, n = rows ? panel.map[0].held.length : 0;
  const tall = $("panel").classList.contains("grown") ? 420 : 200;
  return { rows, n, height: Math.round(rows * Math.min(14, Math.max(3, tall / Math.max(1, rows)))) };
}

function draw_map() {
  if (!panel.map || $("panel").hidden) {
    return;
  }
  const { rows, n, height } = map_size();
  $("map").style.height = height + "px";
  const { g, w, h } = canvas_of($("map"), height);
  const away = rgb_of("--cell"), held = rgb_of("--held"), used = rgb_of("--used"), came = rgb_of("--came");
  const cw = w / n, ch = h / rows, gap = cw > 5 ? 1 : cw > 3 ? 0.5 : 0, gap_y = ch > 5 ? 1 : 0.5, now = performance.now();
  let moves = false;
  for (let r = 0; r < rows; r++) {
    const row = panel.map[r];
    for (let e = 0; e < n; e++) {
      let c = away;
      if (row.held[e] > 0) {
        /* The longer ago it was used, the paler; what is there in part, paler still. */
        const strong = row.age[e] === 1 ? 1 : 0.3 + 0.6 * Math.max(0, 1 - row.age[e] / 9);
        c = now - panel.came[r * n + e] < PANEL_LIT ? came : row.age[e] === 0 ? used : mix(away, held, strong * (0.4 + 0.6 * row.held[e] / 15));
        moves = moves || c === came;
      }
      g.fillStyle = "rgb(" + c.join(",") + ")";
      g.fillRect(e * cw, r * ch, cw - gap, ch - gap_y);
    }
  }
  if (moves && !panel.frame) {
    panel.frame = setTimeout(() => {
      panel.frame = 0;
      draw_map();
    }, PANEL_LIT / 2);
  }
}

/* Tokens ago, by the digit that the server tells: it doubles. */
function age_text(age) {
  return age === 15 ? "not used lately" : age === 0 ? "used by the last token" : "used some " + 2 ** (age - 1) + (age === 1 ? " token ago" : " tokens ago");
}

function map_tip(event) {
  if (!panel.map || !panel.map.length) {
    return;
  }
  const box = $("map").getBoundingClientRect(), rows = panel.map.length, n = panel.map[0].held.length;
  const r = Math.min(rows - 1, Math.max(0, Math.floor(((event.clientY - box.top) / box.height) * rows)));
  const e = Math.min(n - 1, Math.max(0, Math.floor(((event.clientX - box.left) / box.width) * n)));
  const row = panel.map[r], held = row.held[e];
  $("map-tip").textContent = "Layer " + row.layer + ", expert " + e + ": " + (held === 0 ? "in the archive" : held === 15 ? "in memory" : "in memory in part") + ", " + age_text(row.age[e]);
}

function panel_start() {
  $("show-panel").addEventListener("click", () => panel_toggle());
  $("grow-panel").addEventListener("click", () => {
    $("grow-panel").setAttribute("aria-pressed", $("panel").classList.toggle("grown"));
    draw_line();
    draw_map();
  });
  $("map").addEventListener("pointermove", map_tip);
  $("map").addEventListener("pointerleave", () => {
    $("map-tip").textContent = "";
  });
  addEventListener("theme", draw_map);
  addEventListener("resize", draw_map);
  document.addEventListener("visibilitychange", panel_ask);
  if (settings.get("panel") === "open" && !matchMedia("(max-width: 1100px)").matches) {
    panel_toggle(true);
  }
}
