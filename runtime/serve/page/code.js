"use strict";
/* code: blocks of code, with their colours. What is coloured is told without knowing the language well:
 * comments, strings, numbers, and words that are keywords somewhere. */

const KEYWORDS = new Set(("abstract and as assert async await begin bool boolean break byte case catch char class const constexpr continue def default defer del delete do done double elif else end enum except export extends extern false fi final finally float fn for foreach from func function global go goto if impl implements import in include inline instanceof int interface is lambda let local long loop match mod module move mut namespace new nil None not null nullptr of or override package pass private protected pub public raise ref register return select self Self short signed sizeof static str string struct super switch template then this throw throws trait True False true try type typedef typename typeof undefined union unless unsafe unsigned use using var virtual void volatile when where while with yield SELECT FROM WHERE INSERT INTO VALUES UPDATE SET DELETE CREATE TABLE JOIN LEFT RIGHT INNER ON GROUP BY ORDER LIMIT AND OR NOT NULL AS").split(" "));
const HASHES = new Set("python py sh bash shell zsh ruby rb perl yaml yml toml make makefile r dockerfile conf ini cmake elixir julia nix".split(" "));
const DASHES = new Set("sql lua haskell hs ada".split(" "));
const PLAIN = new Set("text txt plain output log markdown md".split(" "));
const CODE_COLOURED = 60000; /* characters of the longest block that is coloured */

function code_pattern(lang) {
  const comment = HASHES.has(lang) ? "#[^\\n]*" : DASHES.has(lang) ? "--[^\\n]*" : lang ? "//[^\\n]*|/\\*[^]*?(?:\\*/|$)|<!" + "--[^]*?(?:--" + ">|$)" : "//[^\\n]*|#[^\\n]*";
  const string = (lang === "python" || lang === "py" ? '"""[^]*?(?:"""|$)|' : "") + '"(?:\\\\.|[^"\\\\\\n])*"?|\'(?:\\\\.|[^\'\\\\\\n])*\'' + (lang === "js" || lang === "javascript" || lang === "ts" || lang === "typescript" ? "|`(?:\\\\.|[^`\\\\])*`?" : "");
  return new RegExp("(" + comment + ")|(" + string + ")|\\b(0[xXbBoO][0-9a-fA-F_]+|\\d[\\d_]*(?:\\.\\d+)?(?:[eE][+-]?\\d+)?)\\w*|([A-Za-z_]\\w*)(?=(\\s*\\()?)", "g");
}

function code_paint(node, text, lang) {
  node.textContent = "";
  if (PLAIN.has(lang) || text.length > CODE_COLOURED) {
    node.textContent = text;
    return;
  }
  const pattern = code_pattern(lang);
  let at = 0;
  for (let m; (m = pattern.exec(text));) {
    const kind = m[1] ? "c" : m[2] ? "s" : m[3] ? "n" : KEYWORDS.has(m[4]) ? "k" : m[5] ? "f" : null;
    if (kind) {
      node.append(text.slice(at, m.index), el("span", { class: "t-" + kind }, m[0]));
      at = m.index + m[0].length;
    }
  }
  node.append(text.slice(at));
}

function code_node(b) {
  const code = el("code");
  const figure = el("figure", { class: "code" });
  const copy = icon_button("copy", "Copy the code", () => copy_text(figure.text, copy));
  const wrap = icon_button("wrap", "Wrap lines", () => wrap.setAttribute("aria-pressed", figure.classList.toggle("wrapped")));
  figure.append(el("figcaption", {}, el("span", {}, b.lang || "code"), wrap, copy), el("pre", { tabIndex: 0 }, code));
  code_update(figure, b);
  return figure;
}

function code_update(figure, b) {
  figure.text = b.text;
  code_paint(figure.querySelector("code"), b.text, b.lang.toLowerCase());
}
