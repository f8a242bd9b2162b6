"use strict";
/* markdown: text that a model wrote, as nodes.
 *
 * What it knows: paragraphs, headings, lists (with tasks), quotes, fenced and indented code, tables,
 * rules; in lines code, emphasis, strong, struck out, links, bare addresses, escapes. HTML is text. A
 * picture is a link with its name, as loading it would tell somebody of this conversation; links are
 * http and https only. Depth is bounded, and no step looks at a text more than a bounded number of times. */

/* Most: depth of blocks, marks of emphasis in a paragraph, brackets that are open and marks that are looked
 * back at, characters of an address. */
const MARKDOWN_DEPTH = 10, MARKDOWN_MARKS = 400, MARKDOWN_OPEN = 32, MARKDOWN_URL = 4096;

/* ---- links ---- */

function safe_url(text) {
  let url;
  try {
    url = new URL(text);
  } catch (e) {
    return null;
  }
  return url.protocol === "http:" || url.protocol === "https:" ? url : null;
}

function link_node(url) {
  return el("a", { href: url.href, target: "_blank", rel: "noopener noreferrer nofollow", title: url.href });
}

/* ---- inside of lines ---- */

const PUNCTUATION = /[!-/:-@[-`{-~\u00a1-\u00bf\u2010-\u2027\u2030-\u205e\u3001-\u3003]/;
const is_space = (c) => c === "" || /\s/.test(c);

/* "(address "title")" from `at`: the address, and where it ends; null where there is none. */
function read_target(s, at) {
  let i = at + 1, depth = 0, url = "";
  while (s[i] === " ") {
    i++;
  }
  const most = Math.min(s.length, i + MARKDOWN_URL);
  if (s[i] === "<") {
    const end = s.slice(i, most).indexOf(">");
    if (end < 0) {
      return null;
    }
    url = s.slice(i + 1, i + end);
    i += end + 1;
  } else {
    const start = i;
    for (; i < most && !/\s/.test(s[i]); i++) {
      if (s[i] === "(") {
        if (++depth > MARKDOWN_OPEN) {
          return null;
        }
      } else if (s[i] === ")" && depth-- === 0) {
        break;
      }
    }
    url = s.slice(start, i);
  }
  const rest = /^[ \n]*(?:"[^"]{0,500}"|'[^']{0,500}')?[ \n]*\)/.exec(s.slice(i, i + 1024));
  return rest ? { url, end: i + rest[0].length } : null;
}

/* Moves what stands between two siblings; with `last` null, all behind the first. */
function move_between(first, last, node) {
  while (first.nextSibling !== last) {
    node.append(first.nextSibling);
  }
}

/* The marks of emphasis after `bottom`, in pairs, as CommonMark has them. */
function close_marks(marks, bottom) {
  for (let c = bottom; c < marks.length; c++) {
    const closer = marks[c];
    if (!closer.closes) {
      continue;
    }
    let o = c - 1;
    for (; o >= bottom && o >= c - MARKDOWN_OPEN; o--) {
      const opener = marks[o];
      const odd = (opener.closes || closer.opens) && (opener.whole + closer.whole) % 3 === 0 && (opener.whole % 3 !== 0 || closer.whole % 3 !== 0);
      if (opener.mark === closer.mark && opener.opens && !(odd && opener.mark !== "~")) {
        break;
      }
    }
    if (o < bottom || o < c - MARKDOWN_OPEN) {
      continue;
    }
    const opener = marks[o];
    const n = closer.mark === "~" ? Math.min(opener.left, closer.left) : opener.left >= 2 && closer.left >= 2 ? 2 : 1;
    const wrap = el(closer.mark === "~" ? "del" : n === 2 ? "strong" : "em");
    move_between(opener.node, closer.node, wrap);
    opener.node.after(wrap);
    for (const m of [opener, closer]) {
      m.left -= n;
      m.node.data = m.mark.repeat(m.left);
    }
    marks.splice(o + 1, c - o - 1);
    c = o + 1;
    if (opener.left === 0) {
      marks.splice(o, 1);
      c--;
    }
    if (closer.left > 0) {
      c--; /* it may close another */
    } else {
      marks.splice(c, 1);
      c--;
    }
  }
  marks.length = Math.min(marks.length, bottom);
}

class Inline {
  constructor(text) {
    this.s = text;
    this.i = 0;
    this.out = document.createDocumentFragment();
    this.text = "";
    this.marks = [];
    this.brackets = [];
    this.no_code = new Set(); /* lengths of ticks that have no end behind here */
  }

  flush() {
    if (this.text) {
      this.out.append(this.text);
      this.text = "";
    }
  }

  put(node) {
    this.flush();
    this.out.append(node);
  }

  code() {
    const ticks = /^`+/.exec(this.s.slice(this.i, this.i + 256))[0];
    if (!this.no_code.has(ticks.length)) {
      const end = new RegExp("(?<!`)`{" + ticks.length + "}(?!`)", "g");
      end.lastIndex = this.i + ticks.length;
      const found = end.exec(this.s);
      if (found) {
        let inner = this.s.slice(this.i + ticks.length, found.index).replace(/\n/g, " ");
        if (inner.length > 2 && inner.startsWith(" ") && inner.endsWith(" ") && inner.trim()) {
          inner = inner.slice(1, -1);
        }
        this.put(el("code", {}, inner));
        this.i = found.index + ticks.length;
        return;
      }
      this.no_code.add(ticks.length);
    }
    this.text += ticks;
    this.i += ticks.length;
  }

  mark(c) {
    let n = 1;
    while (this.s[this.i + n] === c) {
      n++;
    }
    const before = this.i > 0 ? this.s[this.i - 1] : "", after = this.s[this.i + n] || "";
    const left = !is_space(after) && (!PUNCTUATION.test(after) || is_space(before) || PUNCTUATION.test(before));
    const right = !is_space(before) && (!PUNCTUATION.test(before) || is_space(after) || PUNCTUATION.test(after));
    const inside = c === "_";
    this.i += n;
    if (n > 16 || (c === "~" && n !== 2)) {
      this.text += c.repeat(n);
      return;
    }
    const node = document.createTextNode(c.repeat(n));
    this.put(node);
    if (this.marks.length < MARKDOWN_MARKS) {
      this.marks.push({ mark: c, node, left: n, whole: n, opens: left && (!inside || !right || PUNCTUATION.test(before)), closes: right && (!inside || !left || PUNCTUATION.test(after)) });
    }
  }

  open_bracket(image) {
    const node = document.createTextNode(image ? "![" : "[");
    this.put(node);
    if (this.brackets.length >= MARKDOWN_OPEN) {
      this.brackets.shift();
    }
    this.brackets.push({ node, image, marks: this.marks.length, at: this.i });
  }

  close_bracket() {
    const open = this.brackets.pop();
    const target = open && this.s[this.i] === "(" ? read_target(this.s, this.i) : null;
    if (!target) {
      this.text += "]";
      return;
    }
    this.flush();
    close_marks(this.marks, Math.min(open.marks, this.marks.length));
    const url = safe_url(target.url);
    let node;
    if (!url) {
      node = el("span", { class: "no-link", title: "not a link that may be followed" });
    } else {
      node = link_node(url);
    }
    const inner = document.createDocumentFragment();
    move_between(open.node, null, inner);
    open.node.remove();
    if (open.image) {
      node.classList.add("picture");
      node.append(icon("find"), "picture: ");
    }
    node.append(inner);
    if (open.image) {
      node.append(url ? " (" + url.host + ")" : "");
    } else {
      this.brackets = this.brackets.filter((b) => b.image); /* no link in a link */
    }
    this.out.append(node);
    this.i = target.end;
  }

  bare_url() {
    const found = /^https?:\/\/[^\s<>"`]{1,2048}/i.exec(this.s.slice(this.i, this.i + 2100));
    if (!found || (this.i > 0 && /[\w]/.test(this.s[this.i - 1])) || this.brackets.length) {
      return false;
    }
    let text = found[0].replace(/[.,;:!?'*_~]{1,16}$/, "");
    while (text.endsWith(")") && text.split(")").length > text.split("(").length) {
      text = text.slice(0, -1);
    }
    const url = safe_url(text);
    if (!url) {
      return false;
    }
    const node = link_node(url);
    node.append(text);
    this.put(node);
    this.i += text.length;
    return true;
  }

  run() {
    const s = this.s;
    while (this.i < s.length) {
      const c = s[this.i];
      if (c === "\\" && this.i + 1 < s.length && /[!-/:-@[-`{-~\n]/.test(s[this.i + 1])) {
        if (s[this.i + 1] === "\n") {
          this.put(el("br"));
        } else {
          this.text += s[this.i + 1];
        }
        this.i += 2;
      } else if (c === "`") {
        this.code();
      } else if (c === "*" || c === "_" || c === "~") {
        this.mark(c);
      } else if (c === "!" && s[this.i + 1] === "[") {
        this.i += 2;
        this.open_bracket(true);
      } else if (c === "[") {
        this.i++;
        this.open_bracket(false);
      } else if (c === "]") {
        this.i++;
        this.close_bracket();
      } else if (c === "\n") {
        if (/ {2}$/.test(this.text)) {
          this.text = this.text.trimEnd();
          this.put(el("br"));
        } else {
          this.text += "\n";
        }
        this.i++;
      } else if ((c === "h" || c === "H") && this.bare_url()) {
        /* done */
      } else if (c === "<" && /^<https?:\/\/[^\s<>]{1,2048}>/i.test(s.slice(this.i, this.i + 2100))) {
        const text = s.slice(this.i + 1, s.indexOf(">", this.i));
        const url = safe_url(text);
        this.i += text.length + 2;
        if (url) {
          const node = link_node(url);
          node.append(text);
          this.put(node);
        } else {
          this.text += "<" + text + ">";
        }
      } else {
        const plain = /^[^\\`*_~![\]\nhH<]+/.exec(s.slice(this.i, this.i + 512));
        this.text += plain ? plain[0] : c;
        this.i += plain ? plain[0].length : 1;
      }
    }
    this.flush();
    close_marks(this.marks, 0);
    return this.out;
  }
}

const inline = (text) => new Inline(text).run();
