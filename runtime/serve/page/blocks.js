"use strict";
/* blocks: the blocks of a markdown text, and the nodes that show them.
 *
 * A text that grows is parsed anew, which is cheap, but of its nodes only those of blocks that differ are
 * made anew: the last one as a rule. So what was shown stays, with its selection and its scrolling. */

const indent_of = (line) => line.length - line.trimStart().length;
const fence_of = (line) => /^ {0,3}(`{3,}|~{3,})[ \t]*([^`\n]{0,200})$/.exec(line);
const is_rule = (line) => indent_of(line) < 4 && /^([-*_])\1{2,}$/.test(line.replace(/[ \t]+/g, ""));
const bullet_of = (line) => /^( {0,3})([-*+]|\d{1,9}[.)])(?:([ \t]+)(?=\S)|[ \t]*$)/.exec(line);

function heading_of(line) {
  const found = /^ {0,3}(#{1,6})(?=[ \t]|$)/.exec(line);
  if (!found) {
    return null;
  }
  let text = line.slice(found[0].length).trim();
  const end = /#+$/.exec(text.slice(-64));
  if (end && (end[0].length === text.length || /[ \t]/.test(text[text.length - end[0].length - 1]))) {
    text = text.slice(0, text.length - end[0].length).trim();
  }
  return { level: found[1].length, text };
}

/* The cells of a table's line. */
function cells_of(line) {
  const cells = [""];
  const s = line.trim().replace(/^\|/, "");
  for (let i = 0; i < s.length; i++) {
    if (s[i] === "\\" && s[i + 1] === "|") {
      cells[cells.length - 1] += "|";
      i++;
    } else if (s[i] === "|") {
      if (i < s.length - 1) {
        cells.push("");
      }
    } else {
      cells[cells.length - 1] += s[i];
    }
  }
  return cells.map((c) => c.trim()).slice(0, 64);
}

function columns_of(line) {
  if (!line || !line.includes("-") || !/^[ \t|:-]+$/.test(line) || !(line.includes("|") || line.includes(":"))) {
    return null;
  }
  const cells = cells_of(line);
  return cells.every((c) => /^:?-+:?$/.test(c)) ? cells.map((c) => (c.endsWith(":") ? (c.startsWith(":") ? "center" : "right") : "")) : null;
}

/* Whether a line ends a paragraph before it. */
function interrupts(line) {
  const bullet = bullet_of(line);
  return fence_of(line) || heading_of(line) || is_rule(line) || /^ {0,3}>/.test(line) || (bullet && bullet[3] && (!/\d/.test(bullet[2]) || /^1[.)]/.test(bullet[2])));
}

/* ---- each kind: from line i on; returns the line behind ---- */

function read_fence(lines, i, out) {
  const open = fence_of(lines[i]), indent = indent_of(lines[i]), body = [];
  let end = i + 1, closed = false;
  for (; end < lines.length; end++) {
    const close = fence_of(lines[end]);
    if (close && close[1][0] === open[1][0] && close[1].length >= open[1].length && !close[2].trim()) {
      closed = true;
      end++;
      break;
    }
    body.push(lines[end].slice(Math.min(indent, indent_of(lines[end]))));
  }
  out.push({ kind: "code", lang: open[2].trim().split(/[ \t{]/)[0], text: body.join("\n"), closed });
  return end;
}

function read_quote(lines, i, out, depth) {
  const body = [];
  for (; i < lines.length && lines[i].trim(); i++) {
    const found = /^ {0,3}> ?/.exec(lines[i]);
    if (!found && interrupts(lines[i])) {
      break;
    }
    body.push(found ? lines[i].slice(found[0].length) : lines[i]);
  }
  out.push({ kind: "quote", blocks: read_blocks(body, depth + 1) });
  return i;
}

function read_list(lines, i, out, depth) {
  const first = bullet_of(lines[i]), ordered = /\d/.test(first[2]), sign = first[2].slice(-1);
  const list = { kind: "list", ordered, start: ordered ? parseInt(first[2], 10) : 1, items: [], loose: false };
  while (i < lines.length) {
    const bullet = bullet_of(lines[i]);
    if (!bullet || bullet[2].slice(-1) !== sign || /\d/.test(bullet[2]) !== ordered || is_rule(lines[i])) {
      break;
    }
    const pad = bullet[3] && bullet[3].length < 5 ? bullet[3].length : 1;
    const width = bullet[1].length + bullet[2].length + pad;
    const body = [lines[i].slice(width)];
    let blank = false;
    for (i++; i < lines.length; i++) {
      const line = lines[i];
      if (!line.trim()) {
        body.push("");
        blank = true;
      } else if (indent_of(line) >= width) {
        list.loose = list.loose || (blank && indent_of(line) < width + 2 && !bullet_of(line.slice(width)) && !fence_of(line.slice(width)));
        body.push(line.slice(width));
        blank = false;
      } else if (blank || interrupts(line) || bullet_of(line)) {
        break;
      } else {
        body.push(line); /* goes on with the paragraph */
      }
    }
    while (body.length > 1 && !body[body.length - 1]) {
      body.pop();
    }
    const task = /^\[([ xX])\] /.exec(body[0]);
    if (task) {
      body[0] = body[0].slice(4);
    }
    list.items.push({ task: task ? task[1] !== " " : null, blocks: read_blocks(body, depth + 1) });
  }
  out.push(list);
  return i;
}

function read_table(lines, i, out) {
  const table = { kind: "table", head: cells_of(lines[i]), align: columns_of(lines[i + 1]), rows: [] };
  for (i += 2; i < lines.length && lines[i].trim() && !interrupts(lines[i]); i++) {
    table.rows.push(cells_of(lines[i]));
  }
  out.push(table);
  return i;
}

function read_indented(lines, i, out) {
  const body = [];
  for (; i < lines.length && (indent_of(lines[i]) >= 4 || !lines[i].trim()); i++) {
    body.push(lines[i].slice(4));
  }
  while (!body[body.length - 1].trim()) {
    body.pop();
  }
  out.push({ kind: "code", lang: "", text: body.join("\n"), closed: true });
  return i;
}

function read_paragraph(lines, i, out) {
  const body = [lines[i].trimStart()];
  for (i++; i < lines.length && lines[i].trim() && !interrupts(lines[i]); i++) {
    if (columns_of(lines[i + 1]) && lines[i].includes("|")) {
      break;
    }
    body.push(lines[i].trimStart());
  }
  out.push({ kind: "paragraph", text: body.join("\n").trimEnd() });
  return i;
}

function read_block(lines, i, out, depth) {
  const line = lines[i];
  if (fence_of(line)) {
    return read_fence(lines, i, out);
  }
  const heading = heading_of(line);
  if (heading) {
    out.push({ kind: "heading", level: heading.level, text: heading.text });
    return i + 1;
  }
  if (is_rule(line)) {
    out.push({ kind: "rule" });
    return i + 1;
  }
  if (depth < MARKDOWN_DEPTH && /^ {0,3}>/.test(line)) {
    return read_quote(lines, i, out, depth);
  }
  if (depth < MARKDOWN_DEPTH && bullet_of(line)) {
    return read_list(lines, i, out, depth);
  }
  if (indent_of(line) >= 4) {
    return read_indented(lines, i, out);
  }
  const columns = line.includes("|") && columns_of(lines[i + 1]);
  if (columns && columns.length === cells_of(line).length) {
    return read_table(lines, i, out);
  }
  return read_paragraph(lines, i, out);
}

/* The blocks of these lines, each with the lines that it is made of. */
function read_blocks(lines, depth) {
  const blocks = [];
  for (let i = 0; i < lines.length;) {
    if (!lines[i].trim()) {
      i++;
      continue;
    }
    const start = i;
    i = read_block(lines, i, blocks, depth);
    blocks[blocks.length - 1].source = lines.slice(start, i).join("\n");
  }
  return blocks;
}

/* ---- nodes ---- */

function put_blocks(node, blocks, tight) {
  for (const b of blocks) {
    if (tight && b.kind === "paragraph") {
      node.append(inline(b.text));
    } else {
      node.append(block_node(b));
    }
  }
  return node;
}

function list_node(b) {
  const list = el(b.ordered ? "ol" : "ul", b.ordered && b.start !== 1 ? { start: b.start } : {});
  for (const item of b.items) {
    const li = el("li");
    if (item.task !== null) {
      li.className = "task";
      li.append(el("input", { type: "checkbox", checked: item.task, disabled: true }));
    }
    list.append(put_blocks(li, item.blocks, !b.loose));
  }
  return list;
}

function table_node(b) {
  const row = (cells, tag) => el("tr", {}, ...b.head.map((h, i) => el(tag, b.align[i] ? { class: b.align[i] } : {}, inline(cells[i] || ""))));
  return el("div", { class: "table", tabIndex: 0 }, el("table", {}, el("thead", {}, row(b.head, "th")), el("tbody", {}, ...b.rows.map((r) => row(r, "td")))));
}

function block_node(b) {
  switch (b.kind) {
    case "code": return code_node(b);
    case "heading": return el("h" + Math.min(6, b.level + 2), { class: "h" + b.level }, inline(b.text));
    case "rule": return el("hr");
    case "quote": return put_blocks(el("blockquote"), b.blocks, false);
    case "list": return list_node(b);
    case "table": return table_node(b);
    default: return el("p", {}, inline(b.text));
  }
}

/* Shows the text in `node`, which has what an earlier call has put there. */
function markdown_show(node, text) {
  const blocks = read_blocks(text.replace(/\r\n?/g, "\n").replace(/\t/g, "    ").split("\n"), 0);
  const had = node.shown || [];
  let same = 0;
  while (same < had.length && same < blocks.length && had[same].source === blocks[same].source) {
    same++;
  }
  const old = had[same], fresh = blocks[same];
  if (old && fresh && old.kind === "code" && fresh.kind === "code" && old.lang === fresh.lang) {
    code_update(node.children[same], fresh);
    same++;
  }
  while (node.children.length > same) {
    node.lastChild.remove();
  }
  for (const b of blocks.slice(same)) {
    node.append(block_node(b));
  }
  node.shown = blocks;
}
