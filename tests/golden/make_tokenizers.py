#!/usr/bin/env python3
"""Make the tokenizer vectors in tests/golden/tokenizers (developers only).

    python3 tests/golden/make_tokenizers.py [EXTRA_NAME=path/to/tokenizer.json ...]

Needs the `tokenizers` package; the version that was used stands in every vector file. Trains a small BPE
tokenizer of each published style on the text below (written for this project), and records what the package
makes of a corpus of awkward strings: ids with and without special tokens, ids with special tokens taken
as plain text, and decoded text both ways; also the decoded text of random ids. For EXTRA tokenizers only
vectors are written, not the file itself.

Everything is deterministic: one seed, no threads, files sorted by name.
"""
import json
import os
import random
import sys

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
import tokenizers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SEED = 20240611
HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizers")

TEXT = """
Once upon a time a small river ran through the valley, and the children who lived there knew every stone in it.
They'd wake before the sun, we're told, and they'll say it wasn't the cold that woke them; it's the singing.
"Don't you hear it?" asked Mira. "I've heard it since I was 7, and I'm 12 now." She counted: 1, 22, 333, 4444, 55555.
The keeper of the bridge had 1024 keys, 365 lamps and one broken clock that showed 03:47 in 1998 and in 2024.
for (int i = 0; i < n; i++) {
    total += weights[i] * inputs[i];   /* sum of products */
    if (total > 1e6) return total / 2.0;
}
def mean(values):
\treturn sum(values) / len(values)
HTTP_SERVER_PORT = 8080; userName, XMLParser, iPhone, eBay; snake_case and camelCase and SCREAMING_CASE.
El niño pequeño corría detrás de la cometa; mañana lloverá, dijo la abuela, pero hoy el cielo está azul.
Der Müller öffnet früh die Tür, grüßt die Straße und fragt: Wo sind die schönen Äpfel geblieben?
L'été dernier, à la plage, les élèves ont mangé des crêpes; où êtes-vous allés, ça va?
Сегодня утром мальчик нашёл на берегу старую лодку, и вода в реке была тихая и тёплая.
Η θάλασσα ήταν ήρεμη και το παιδί μετρούσε τα κύματα ως το βράδυ.
小さな川のそばに、古い家がありました。子供たちは毎日そこで遊びました。カタカナも少し。
从前有一条小河，孩子们每天在河边玩耍。他们认识每一块石头，也认识每一条鱼。一二三四五六七。
작은 강가에 오래된 집이 있었고 아이들은 매일 그곳에서 놀았습니다.
كان هناك نهر صغير يجري عبر الوادي وكان الأطفال يعرفون كل حجر فيه.
פעם היה נהר קטן בעמק והילדים הכירו כל אבן בו.
एक छोटी नदी घाटी से बहती थी और बच्चे उसके हर पत्थर को जानते थे।
แม่น้ำสายเล็กไหลผ่านหุบเขา และเด็กๆ รู้จักหินทุกก้อน
Ngày xưa có một con sông nhỏ chảy qua thung lũng, trẻ em biết từng hòn đá.
The end came quietly, the way it always does: a door, a lamp, a last line, and then the night.
The river ran, the river ran, and the children ran with the river; the stones and the singing, the singing and the sun.
""".strip().split("\n")

GPT2 = None
T2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
T2M = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
T4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
T3 = (r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + "+" + CONTRACTION + r"|[^\r\n\p{L}\p{N}]?" + UPPER + "+" + LOWER + "*" +
      CONTRACTION + r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
T3T = (r"[^\r\n\p{L}\p{N}]?" + UPPER + "*" + LOWER + r"+|[^\r\n\p{L}\p{N}]?" + UPPER + "+" + LOWER +
       r"*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
T5 = [r"\p{N}{1,3}", "[一-龥\u3040-ゟ゠-ヿ]+",
      r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""]
CASED = ("A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
         "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"
         "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba"
         "\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
         "\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe"
         "\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102"
         "\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
         "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3"
         "\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06"
         "\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3"
         "\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"
         "\U0001e900-\U0001e943")
T6 = [r"[\r\n]", r"\s?[" + CASED + "]+",
      r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", r"[一-龥ࠀ-一가-퟿]+"]
T7 = (r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+" + CONTRACTION +
      r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*" + CONTRACTION +
      r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
T11 = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"
T12 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def byte_level(use_regex=False, prefix=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=use_regex)


def added(content, special=True, **flags):
    row = {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": special}
    row.update(flags)
    return row


def template(front=(), behind=()):
    row = [{"SpecialToken": {"id": t, "type_id": 0}} for t in front]
    row += [{"Sequence": {"id": "A", "type_id": 0}}]
    return row + [{"SpecialToken": {"id": t, "type_id": 0}} for t in behind]


def train(pre, normalizer=None, vocab=640, specials=(), byte_alphabet=True, more=()):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre
    if normalizer:
        tok.normalizer = normalizer
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=list(specials), show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if byte_alphabet else [])
    tok.train_from_iterator(TEXT + list(more), trainer)
    return json.loads(tok.to_str())


def finish(doc, tokens, front=(), behind=(), byte_level_post=True, model=None, decoder="ByteLevel"):
    """Put added tokens at the end of the vocabulary's ids, and the template and decoder in place."""
    vocab = doc["model"]["vocab"]
    doc["added_tokens"] = []
    next_id = len(vocab)
    ids = {}
    for row in tokens:
        if row["content"] in vocab:
            i = vocab[row["content"]]
        else:
            i, next_id = next_id, next_id + 1
        ids[row["content"]] = i
        doc["added_tokens"].append({"id": i, **row})
    doc["added_tokens"].sort(key=lambda r: r["id"])
    post = []
    if byte_level_post:
        post.append({"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True})
    if front or behind:
        special = {t: {"id": t, "ids": [ids[t]], "tokens": [t]} for t in set(front) | set(behind)}
        pair = template(front, behind) + [{"Sequence": {"id": "B", "type_id": 1}}]
        post.append({"type": "TemplateProcessing", "single": template(front, behind), "pair": pair,
                     "special_tokens": dict(sorted(special.items()))})
    doc["post_processor"] = post[0] if len(post) == 1 else {"type": "Sequence", "processors": post} if post else None
    if decoder == "ByteLevel":
        doc["decoder"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    else:
        doc["decoder"] = decoder
    doc["model"].update(model or {})
    return doc


def spm(vocab=700, specials=("<unk>", "<s>", "</s>")):
    """A vocabulary with byte tokens, as SentencePiece's BPE exports have it."""
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    doc = train(pre_tokenizers.Metaspace(prepend_scheme="always", split=True), vocab=vocab, specials=list(specials) + bytes_,
                byte_alphabet=False)
    doc["model"].update({"byte_fallback": True, "fuse_unk": True, "unk_token": "<unk>"})
    doc["normalizer"] = doc["pre_tokenizer"] = None
    return doc


def drop_rare(doc, keep):
    """Take the characters that `keep` refuses out of the vocabulary, so that bytes or unk stand in for them."""
    model = doc["model"]
    merges = [m if isinstance(m, list) else m.split(" ") for m in model["merges"]]
    names = [t for t in sorted(model["vocab"], key=model["vocab"].get) if t.startswith("<") or all(map(keep, t))]
    model["vocab"] = {t: i for i, t in enumerate(names)}
    model["merges"] = [m for m in merges if m[0] + m[1] in model["vocab"] and m[0] in model["vocab"] and m[1] in model["vocab"]]
    return doc


CHAT = [added("<|endoftext|>"), added("<|im_start|>"), added("<|im_end|>")]
LLAMA_DECODER = {"type": "Sequence", "decoders": [
    {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
LLAMA_NORMALIZER = {"type": "Sequence", "normalizers": [
    {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
SPM_TOKENS = [added("<unk>"), added("<s>"), added("</s>")]


def styles():
    seq = pre_tokenizers.Sequence
    yield "gpt2", finish(train(byte_level(True)), [added("<|endoftext|>")])
    yield "gpt2_prefix", finish(train(byte_level(True, True)), [added("<|endoftext|>"), added("<mask>", lstrip=True)],
                                front=["<|endoftext|>"], behind=["<|endoftext|>"])
    yield "olmoe", finish(train(byte_level(True), normalizers.NFC()),
                          [added("<|endoftext|>"), added("|||EMAIL|||", False, normalized=True), added("  ", False, normalized=True),
                           added("    ", False, normalized=True), added("é́", False, normalized=True), added("<|padding|>")])
    doc = train(seq([split(T4), byte_level()]))
    for word in ["Ġunreachable", "ĠSolidGoldMagikarp", "zzqq"]:  # whole words that no merge makes
        doc["model"]["vocab"][word] = len(doc["model"]["vocab"])
    yield "llama3", finish(doc, [added("<|begin_of_text|>"), added("<|end_of_text|>"), added("<|eot_id|>")],
                           front=["<|begin_of_text|>"], model={"ignore_merges": True})
    qwen = [added("<think>", False), added("</think>", False), added("<tool_call>", False)]
    yield "qwen2", finish(train(seq([split(T2), byte_level()]), normalizers.NFC()), CHAT + qwen)
    yield "qwen35", finish(train(seq([split(T2M), byte_level()]), normalizers.NFC()), CHAT + qwen)
    yield "o200k", finish(train(seq([split(T3), byte_level()])), [added("<|startoftext|>"), added("<|endoftext|>"), added("<|return|>")],
                          model={"ignore_merges": True})
    yield "tekken", finish(train(seq([split(T3T), byte_level()])), [added("<s>"), added("</s>"), added("[INST]"), added("[/INST]")],
                           front=["<s>"], behind=["</s>"])
    yield "olmo2", finish(train(seq([split(T4, "removed", True), byte_level()])), CHAT)
    yield "deepseek3", finish(train(seq([split(p) for p in T5] + [byte_level()])),
                              [added("<｜begin▁of▁sentence｜>"), added("<｜end▁of▁sentence｜>"),
                               added("<｜User｜>", False), added("<think>", False, normalized=True)],
                              front=["<｜begin▁of▁sentence｜>"])
    yield "deepseek1", finish(train(seq([split(p) for p in T6] + [pre_tokenizers.Digits(True), byte_level()])), CHAT)
    yield "kimi", finish(train(seq([split(T7), byte_level()])), [added("[BOS]"), added("[EOS]"), added("<|im_end|>")])
    yield "ling", finish(train(seq([split(T11), byte_level()])), CHAT)
    yield "exaone", finish(train(seq([split(T12), byte_level()])), CHAT)
    yield "starcoder", finish(train(seq([pre_tokenizers.Digits(True), byte_level(True)])),
                              [added("<|endoftext|>"), added("<fim_prefix>"), added("<fim_middle>")])
    rare = drop_rare(spm(), lambda c: not "\u3040" <= c <= "\ud7ff" and c not in "øzÄ")
    rare["normalizer"] = LLAMA_NORMALIZER
    yield "mixtral", finish(rare, SPM_TOKENS + [added("<0x+F>", False)], front=["<s>"], byte_level_post=False, decoder=LLAMA_DECODER)
    old = spm(600)
    old["normalizer"] = LLAMA_NORMALIZER
    yield "llama1", finish(old, [added(t, normalized=True) for t in ("<unk>", "<s>", "</s>")] + [added("<mask>", False, normalized=True)],
                           front=["<s>"], byte_level_post=False, decoder=LLAMA_DECODER)
    doc = drop_rare(spm(), lambda c: c < "\u0400" or c == "▁")
    doc["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    yield "mistral", finish(doc, SPM_TOKENS + [added("[INST]", rstrip=True), added("[/INST]", lstrip=True)], front=["<s>"],
                            byte_level_post=False, decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False})
    doc = drop_rare(spm(720, ("<pad>", "<eos>", "<bos>", "<unk>")), lambda c: c < "\u0600" or c == "▁")
    doc["normalizer"] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    doc["pre_tokenizer"] = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    yield "gemma", finish(doc, [added("<pad>"), added("<eos>"), added("<bos>"), added("<unk>"), added("<start_of_turn>"),
                                added("\n\n", False), added("▁▁", False), added("<unused0>", False)],
                          front=["<bos>"], byte_level_post=False,
                          decoder={"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                                                                    {"type": "ByteFallback"}, {"type": "Fuse"}]})
    doc = drop_rare(train(pre_tokenizers.Metaspace(), vocab=500, specials=["<unk>"], byte_alphabet=False), lambda c: c < "\u0250" or c == "▁")
    doc["model"].update({"unk_token": "<unk>", "fuse_unk": False})
    doc["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    yield "metaspace", finish(doc, [added("<unk>"), added("<sep>", lstrip=True, rstrip=True)], behind=["<sep>"], byte_level_post=False,
                              decoder={"type": "Sequence", "decoders": [{"type": "ByteFallback"},
                                       {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}]})
    yield from odd_styles()


def odd_styles():
    """Components that no large model combines like this, all in one place each."""
    doc = train(pre_tokenizers.Whitespace(), normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()]), vocab=500,
                specials=["[UNK]"], byte_alphabet=False)
    doc = drop_rare(doc, lambda c: c < "\u0400" and c not in "qxj")
    doc["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "NFKC"}, {"type": "Lowercase"},
        {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"Regex": "[0-9]{3,}"}, "content": "#"},
                                             {"type": "Replace", "pattern": {"String": "colour"}, "content": "color"}]}]}
    doc["model"]["unk_token"] = "[UNK]"
    yield "words", finish(doc, [added("[UNK]"), added("Whole", False, single_word=True), added("ROW", False, normalized=True),
                                added("[L]", lstrip=True), added("[R]", rstrip=True), added("[LR]", lstrip=True, rstrip=True)],
                          byte_level_post=False, decoder=None)
    # tokens that span the places where the splits below must cut
    doc = train(pre_tokenizers.WhitespaceSplit(), normalizers.NFD(), vocab=500, specials=["[UNK]"], byte_alphabet=False,
                more=["abbb abb bbb bbbb cdx cddx ddx dcd ... !!! ?! mno omn nnn qa aqa qq xx 123 12 ,, ,- -- -_-"] * 30)
    doc["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"String": "b"}, "behavior": "MergedWithPrevious", "invert": False},
        {"type": "Split", "pattern": {"Regex": "[cd]"}, "behavior": "MergedWithNext", "invert": False},
        {"type": "Split", "pattern": {"Regex": "[.!?]"}, "behavior": "Contiguous", "invert": False},
        {"type": "Split", "pattern": {"Regex": "[m-p]"}, "behavior": "Contiguous", "invert": True},
        {"type": "Digits", "individual_digits": False}, {"type": "Punctuation", "behavior": "Contiguous"},
        {"type": "Split", "pattern": {"Regex": "(?=q)|x"}, "behavior": "MergedWithPrevious", "invert": False},
        {"type": "WhitespaceSplit"}]}
    doc["normalizer"] = {"type": "NFD"}
    doc["model"].update({"unk_token": "[UNK]", "fuse_unk": True})
    yield "splits", finish(doc, [added("[UNK]"), added("naïve", False, normalized=True), added("resumé", False)], byte_level_post=False,
                           decoder={"type": "Sequence", "decoders": [
                               {"type": "Replace", "pattern": {"Regex": "[aeiou]$"}, "content": "+"},
                               {"type": "Strip", "content": "n", "start": 0, "stop": 1},
                               {"type": "Strip", "content": "t", "start": 2, "stop": 0}]})
    # where "the start of the text" is, once normalizers and splits have been there
    doc = drop_rare(spm(600), lambda c: c < "\u0250" or c == "▁")
    doc["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"Regex": "^[xA]"}, "content": ""}, {"type": "Strip", "strip_left": True, "strip_right": False},
        {"type": "Replace", "pattern": {"String": "don"}, "content": "do n"}]}
    doc["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "[-,]"}, "behavior": "MergedWithNext", "invert": False},
        {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}]}
    yield "first", finish(doc, SPM_TOKENS, byte_level_post=False,
                          decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True})
    # tokens across places where only Oniguruma cuts, or only PCRE2 would
    doc = train(pre_tokenizers.WhitespaceSplit(), vocab=600, specials=["[UNK]"], byte_alphabet=False,
                more=["世界！ 界！ 年。 。 好， 字。 ，世 世。 x² ²x ½x a² 2² é½ ア・ ー・ カー・ ΑΣ。 ½① ②½ ²½"] * 30)
    doc["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": r}, "behavior": "Isolated", "invert": False}
        for r in (r"[\p{Han}]+", r"\p{Katakana}+", r"\w+|\W", r"[\w]+|\b", r"[[:punct:]]+", r"(?i)[\p{L}]+x?")]}
    doc["model"]["unk_token"] = "[UNK]"
    yield "dialect", finish(doc, [added("[UNK]"), added("[R]", rstrip=True), added("\n\n", False, lstrip=True)],
                            byte_level_post=False, decoder=None)
    # what stands in place of the text's first character
    doc = train(pre_tokenizers.Metaspace(), vocab=500, specials=["[UNK]"], byte_alphabet=False)
    doc["normalizer"] = {"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"String": "ﬁ"}, "content": "fi"}, {"type": "Replace", "pattern": {"Regex": "[fFdD]+"}, "content": "x y"},
        {"type": "Lowercase"}]}
    doc["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    doc["model"]["unk_token"] = "[UNK]"
    yield "front", finish(doc, [added("[UNK]")], byte_level_post=False, decoder=None)
    doc = train(pre_tokenizers.Sequence([split(r"\bthe\b|^\s+|\s+$|[\d]+?|\h{4}", "isolated"), byte_level()]), normalizers.NFKD())
    yield "anchors", finish(doc, [added("<s>", normalized=True), added("ﬁ", False, normalized=True)], behind=["<s>"])


def corpus():
    rng = random.Random(SEED)
    c = ["", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\r", "\t", " \n ", "\n \n", "a", "A", " a", "a ", "  a  ", "Hello, world!", " Hello  world ",
         "Hello\nworld\r\nagain\r\n\r\n  indented\n\t\ttabs \t mixed\n", "don't I'm we'll they've you'd it's he're", "DON'T I'M WE'LL THEY'VE YOU'D IT'S",
         "it'ſ donʼt I'ſ ſ 'ſ'S'T", "can''t '' 's 't'd", "12", "123", "1234", "1234567890123456789012345", "3.14159 1,000,000 1e-9 0x1F4A9",
         "٣٤٥ ௧௨௩ Ⅷ ⅷ ² ½ ①② 𝟘𝟙 九", "\u00a0nbsp\u00a0\u00a0two", "a\u1680b\u2000c\u2003d\u2028e\u2029f\u202fg\u205fh\u3000i\u0085j\u180ek\u200bl\ufeffm",
         "\u2003\u2003x", "x \u3000 y", "\x00", "a\x00b\x00\x00", "\x01\x02\x1f\x7f\x80\x9f", "\x0b\x0c\x1c\x1d\x1e\x1f",
         "café cafe\u0301 CAFE\u0301", "A\u030a Å Å \u1e9b\u0323 \u1e9b\u0323\u0307", "q\u0307\u0323 q\u0323\u0307 a\u0315\u0300\u05ae\u0301b", "가 \u1100\u1161 각 \u1100\u1161\u11a8 한국어",
         "ﬁ ﬀ ﷺ ㍿ ℌ ℵ ①", "İstanbul ISPARTA ıi ΑΣ ΑΣΑ ǅ ẞ", "\u0344 \u0958 \u2126 \u212b \ufb1d", "e\u0301" * 20, "a" + "\u0301\u0323" * 40 + "b",
         "👍", "👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ☺️ ❤️‍🔥", "🙂🙂🙂\n🙂", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈 𠜎𠜱", "\U0010ffff \ue000 \ufffd \ufffe",
         "مرحبا بالعالم، كيف حالك؟", "שָׁלוֹם עוֹלָם", "\u202eabc\u202c \u200fאב\u200e12", "नमस्ते दुनिया क्षत्रिय", "สวัสดีชาวโลก น้ำ", "你好，世界！今天是2024年。", "こんにちは、世界。カタカナ漢字ひらがな", "ABC汉字DEF かな123가나",
         "Ünïcödé Straße ŁÓDŹ façade naïve resumé naïve naïve", "ΕΛΛΗΝΙΚΑ Кириллица ћириЛИЦА", "HTTPServer XMLHttpRequest iPhone11Pro camelCaseWord SCREAMING_SNAKE a1b2c3",
         "https://example.com/a/b?q=1&r=2#frag user@mail.org C:\\dir\\file", "!!!??? ... --- *** /// \\\\\\ ///\n\n//", "foo-bar_baz, qux; a.b.c... (d) [e] {f} <g> \"h\" 'i'",
         "$100 €5 £3 ¥9 ₿1 +1 −2 ×3 ÷4 ≠ ≤ ∞", "for(i=0;i<10;i++){\n\tprintf(\"%d\\n\", i);\n}\n", "    four\n        eight\n\ttab\n \t mix", " \t \n \t \n", "trailing   ", "   leading",
         "a\n\n\nb", "a \n b", "word\n", "word \n", "word  \n  ", "x.\n\ny", "?\r\n!", "the the The THE other theme", "  \n12 ab34", "\n  x  \n",
         "unreachable is unreachable", " unreachable", "zzqq zzqq", " SolidGoldMagikarp", "xxx xx x axxb xyx", "ab,cd,,ef - gh--ij_kl__mn!?.. op", "COLOUR colour Colour 12345 99",
         "abbb bbbb cdx cddx dcd ddx aqa qqx xx mno nnn omn ?! !!! ... ,, -_- 123 ☺☺ ☹☹☹ 中中 ttt tt", "<0x+F> <0x+f>",
         "Whole\u200c Whole\u200dx \u24d0Whole Whole\u0301 _Whole 1Whole", "Whole wholesome Whole. aWhole Wholeb Whole", "ROW row a row", "x [L] y [R] z [LR] w", "x  [L]  y  [R]  z  [LR]  w  [LR][LR] [L][R]", " [L]", "[R] ", "a[L]b[R]c", "\n[L]\n\n[R]\n\n[LR]\n",
         "<s>", "</s>", "<s>Hello</s>", " <s> Hello </s> ", "<s><s>", "a<s>b", "<unk>", "<mask>", "a <mask> b", "the <mask>", "[INST] hi [/INST] yo", "[INST]hi[/INST]", "a  [INST]  b  [/INST]  c",
         "<|endoftext|>", "a<|endoftext|>b", " <|endoftext|> ", "<|endoftext|><|endoftext|>", "<|endoftext|", "<|endoftext|<|endoftext|>", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
         "<think>\nhm\n</think>\n\nyes<tool_call>", "<think", "<<think>>", "<|begin_of_text|>x<|eot_id|>", "<｜begin▁of▁sentence｜>你好<｜User｜>hi<｜end▁of▁sentence｜>", "<bos><start_of_turn>user\n\nx\n\n\ny<unused0>",
         "|||EMAIL|||", "a|||EMAIL||||||EMAIL|||b", "<fim_prefix>a<fim_middle>b", "<sep>", "a <sep> b <sep><sep> c", "<|startoftext|>a<|return|>", "[BOS]a[EOS]", "<pad><eos><unk>",
         "▁", "▁▁", "▁a ▁b", " ▁ ", "a▁b", "<0x41>", "<0x0A><0xE4>", "<0xe4> <0xZZ>", "Ġ Ċ ÃĤ Ġthe", "Ġ", "ġĢĤ ł Ń", "\u0120the \u010a",
         "word " * 20, "ab" * 120, "=" * 90, " " * 100, "\n" * 60, "1" * 61, "あ" * 30, "é" * 50, "👍" * 15, "the" * 200, "\t" * 50 + "x", "a." * 30, "x" * 45 + " " + "y" * 39 + " " + "z" * 41,
         "".join(chr(rng.randrange(32, 127)) for _ in range(200))]
    pool = "abz AB  \n\t'sStTlL019.,!-_<>|[]é́ßſİ中文あ가👍\u200d\u00a0\u3000\u0e33\u05d0\u0627\ufeff\x00"
    c += ["".join(rng.choice(pool) for _ in range(rng.randrange(1, 60))) for _ in range(40)]
    c += [" ".join(rng.choice(TEXT).split(" ")[:rng.randrange(1, 12)]) for _ in range(20)]
    c = [t.encode("utf-8") for t in c]
    c += [b"\xff", b"a\xffb", b"\xc3", b"\xc3(", b"\xe2\x82", b"\xe2\x82x", b"\xf0\x9f\x91", b"\xf0\x9f\x91\x8d\xf0\x9f", b"\xed\xa0\x80\xed\xb0\x80", b"\xc0\x80\xc1\xbf",
          b"\xf4\x90\x80\x80", b"\xf5\x80", b"\xe0\x80\x80", b"\xe0\xa0", b"\x80\x81\xbf", b"ok \xfe\xff end", b"\xe4\xbd\xa0\xe5\xa5", b"<|endoftext|>\xff<s>"]
    c += [bytes(rng.randrange(256) for _ in range(rng.randrange(1, 40))) for _ in range(20)]
    return c


def vectors(name, doc, texts):
    """encode: [ids, ids with special tokens as plain text, decoded, decoded without special], one row for each
    text. 0: the same as the entry before it (for the third: as the text). decode: [ids, decoded, decoded without special]."""
    tok = Tokenizer.from_str(json.dumps(doc))
    size = max(list(tok.get_vocab(True).values())) + 1
    rng = random.Random(SEED)
    empty = tok.encode("").ids  # the template's own ids; all of them stand in front but for these
    front = [i for i in empty if tok.id_to_token(i) not in ("</s>", "<sep>")] if name not in ("gpt2_prefix", "anchors") else empty[:len(empty) // 2]
    behind = empty[len(front):]
    cases = []
    for text in texts:
        s = text.decode("utf-8", errors="replace")
        tok.encode_special_tokens = False
        with_special, without = tok.encode(s, add_special_tokens=True).ids, tok.encode(s, add_special_tokens=False).ids
        tok.encode_special_tokens = True
        plain = tok.encode(s, add_special_tokens=False).ids
        tok.encode_special_tokens = False
        assert with_special == front + without + behind
        row = [without, 0 if plain == without else plain,
               tok.decode(without, skip_special_tokens=False), tok.decode(without, skip_special_tokens=True)]
        if row[3] == row[2]:
            row[3] = 0
        if row[2].encode() == text:
            row[2] = 0
        cases.append(row)
    decoded = []
    for _ in range(80):
        ids = [rng.randrange(size + 2) for _ in range(rng.randrange(1, 24))]
        if rng.random() < 0.5:  # byte tokens and their like lie in front
            ids = front + [rng.randrange(min(size, 264)) for _ in ids] + behind
        decoded.append([ids, tok.decode(ids, skip_special_tokens=False), tok.decode(ids, skip_special_tokens=True)])
    return {"name": name, "tokenizers": tokenizers.__version__, "seed": SEED, "vocab": size,
            "front": front, "behind": behind, "encode": cases, "decode": decoded}


def write(name, value):
    with open(os.path.join(HERE, name), "w", encoding="utf-8") as f:
        json.dump(value, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")


def main():
    os.makedirs(HERE, exist_ok=True)
    texts = corpus()
    write("texts.json", [t.hex() for t in texts])
    names = []
    for name, doc in styles():
        write(f"{name}.json", doc)
        write(f"{name}.vectors.json", vectors(name, doc, texts))
        names.append(name)
    for arg in sys.argv[1:]:
        name, path = arg.split("=", 1)
        with open(path, encoding="utf-8") as f:
            write(f"{name}.vectors.json", vectors(name, json.load(f), texts))
    print(len(texts), "texts,", " ".join(names), "with tokenizers", tokenizers.__version__)


if __name__ == "__main__":
    main()
