"""Dialogues out of stories: python dialogues.py CORPUS TOKENIZER OUT [SHARE]

writes OUT/dialogues.bin, for training, and OUT/held_out.json, requests about names and things of
valid.txt that no training dialogue has together. A story gives a name and a thing by simple rules
(`about`), and from them a request; its parts give what happens next, its last paragraph another
ending, its own title or name and thing a title. People's names are swapped for others in most
dialogues, and the thing for another in a SHARE of them (0.25), so that the model learns to take both
from the request instead of from memory.

The stream is uint16 ids; FOREIGN is added to what is read and not learned: what the user says, and
the end of a story that was taken from another so that its own is the better one. ASKED is added where
an answer first says the name and the thing.
"""
import collections
import json
import os
import random
import re
import sys

import numpy as np
from tokenizers import Tokenizer

import data
import tokenizer as shared
from data import ASKED, FOREIGN

COPIES = 6              # dialogues that are made of each story; twice as many with a name and a thing
LONGEST = 1000          # tokens of a dialogue
NEW_NAMES = 0.8         # share of the dialogues with another name than the story's
HELD_OUT = 50           # requests
NOTHING, ALL = 0, 10 ** 6

NO_NAMES = set("""
I A An The He She It They We You His Her Its Their My Your Our This That These Those There Here
One Once When Then So But And Or If As At In On Of To For From With Mom Dad Mommy Daddy Mama Papa
Mother Father Mum Mummy Grandma Grandpa Mr Mrs Ms Miss Dr Sir King Queen Prince Princess Yes No Oh
Hello Hi Hey Wow Look Please Thank Thanks What Why How Who Where Sorry Okay Ok Now Today Every
Everyone Suddenly Finally After Before Lord God Sunday Monday Tuesday Wednesday Thursday Friday
Saturday Christmas Aunt Uncle Granny Amma Appa Maa Baba Teacher English India Indian Africa Be Can
Do Did Don Let Maybe All Not Just Goodbye Bye Good Great Come Go Stop Help Well Some Is Are Was
Will Would Could Nothing Ouch Yay Big Little Old Mrs. January February March April May June July
August September October November December
""".split())
NO_THINGS = set("""
time day days way thing things lot bit end top bottom side back front middle rest place moment
morning night afternoon evening week year years world one ones other others same first next last
boy girl man woman child children people friend friends mom dad mother father mum mommy daddy mama
brother sister family boys girls kids kid son daughter little old big new young good idea name
story life fun job help something face hand hands eyes head heart mouth arms arm feet foot voice
air ground inside outside lady grandma grandpa baby smile turn while few only whole more best most
many lesson moral surprise problem noise sound word words answer question reason part kind piece
way animals animal creature creatures crowd owner parents importance others truth sky area
distance sight future past group home person wife husband it them him her us me you water food
half mess fact matter rule rules choice center edge corner line left right beauty wonder joy
kindness wisdom challenge courage pride strength shadow shadows spirit village town city land hour
minute second neighbor bottom light shape color colour colors size stranger couple feeling sun
wind power rush chaos gaze square woods breeze hope tale task quest path journey sense mist scent
realm
""".split())
HELLO = {
    "user": ["Hello", "Hi!", "Hello there.", "Good morning", "Hey", "Hi, who are you?",
             "What can you do?", "Who are you?"],
    "assistant": ["Hello! I tell stories. Who shall the story be about?",
                  "Hello! Tell me a name and a thing, and I will tell you a story."],
}
THANKS = {
    "user": ["Thank you!", "Thanks.", "That was nice.", "Thank you, I liked it.", "Bye", "Good night"],
    "assistant": ["You are welcome. Shall I tell another story?",
                  "I am glad that you liked it. Good night!"],
}
SYSTEMS = ["You are a storyteller.", "You tell short stories for children.", "You are a helpful assistant.",
           "You tell stories in simple words.", "Answer with a short story."]
WHOLE = ["Tell me a story about {name} and {thing}.", "Tell me a story about {name} and {thing}",
         "Please tell me a story about {name} and {thing}.", "tell me a story about {name} and {thing}",
         "A story about {name} and {thing}, please.", "Can you tell me a story about {name} and {thing}?",
         "Write a story about {name} and {thing}.", "I want to hear a story about {name} and {thing}.",
         "Tell a story with {name} and {thing} in it.", "Write a short story about {name} and {thing}."]
NAME_ONLY = ["Tell me a story about {name}.", "Tell me a story about someone called {name}.",
             "Tell me another story, about {name}.", "Write a story about {name}."]
THING_ONLY = ["Tell me a story about {thing}.", "Tell me a story with {thing} in it.",
              "Write a story about {thing}."]
ANY = ["Tell me a story.", "Tell me a story", "Please tell me a story.", "Tell me another story."]
BEGIN = ["Begin a story about {name} and {thing}.", "Start a story about {name} and {thing}.",
         "How does a story about {name} and {thing} begin?"]
NEXT = ["What happens next?", "What happens next?", "And then?", "What happened then?", "Go on.",
        "Tell me more.", "Please go on."]
ENDING = ["Give it another ending.", "Tell me another ending.", "Can it end in another way?",
          "Another ending, please.", "How else could it end?"]
TITLE = ["Give it a title.", "What is the title of the story?", "What would be a good title?",
         "A title, please.", "Give the story a title."]


def paragraphs(text):
    return [p.strip() for p in text.split("\n") if p.strip()]


def title_of(text):
    """(the document's own title or None, the rest)"""
    head, gap, rest = text.partition("\n\n")
    if gap and len(head) < 60 and "\n" not in head and head[-1] not in '.,:;"':
        return head.strip(), rest.strip()
    return None, text


class Nouns:
    """Words that stand behind an article and before the end of a phrase often enough."""

    AFTER = re.compile(r"\b(a|an|the|his|her|their|my|your) ((?:[a-z]+ )?)([a-z]{3,})"
                       r"(?=([.,;!?]| (?:and|was|were|is|in|on|to|with|that|had|of|for|at|from|but|so"
                       r"|as|who|which|because|when|under|into)\b)?)")
    NO_ADJECTIVES = set("""big little new own and same very other first next last was with had her his
two many the most whole""".split())

    def __init__(self, docs):
        phrase, total, plain = collections.Counter(), collections.Counter(), collections.Counter()
        self.documents = collections.Counter()
        for doc in docs:
            self.documents.update(set(re.findall(r"[a-z]+", doc)))
            total.update(re.findall(r"[a-z]+", doc))
            for m in self.AFTER.finditer(doc):
                if m[1] in ("a", "an"):
                    plain[m[3]] += 1
                if m[4]:
                    phrase[m[3]] += 1
        self.words = {w for w, n in phrase.items() if n >= 8 and w not in NO_THINGS
                      and n > 0.22 * total[w] and plain[w] > 0.08 * total[w]
                      and not w.endswith(("ly", "ing", "ed", "ness"))}
        self.count = len(docs)

    def adjective(self, text, word):
        """What the story calls the thing at its first mention; or nothing."""
        m = re.search(r"\b([Aa]n?|[Tt]he|[Hh]is|[Hh]er|[Mm]y) ((?:[a-z]+ ){0,1})" + word + r"\b", text)
        adjective = m[2].strip() if m else ""
        known = re.fullmatch(r"[a-z]{3,}", adjective)
        return adjective if known and adjective not in NO_THINGS | self.words | self.NO_ADJECTIVES \
            else ""


def names(text, nouns):
    """Names of who the story is about, most often named first: capitalised where no sentence
    begins, and no common word."""
    count = collections.Counter(re.findall(r"(?<=[a-z,] )([A-Z][a-z]+)\b", text))
    every = collections.Counter(re.findall(r"\b[A-Z][a-z]+\b", text))
    lower = set(re.findall(r"\b[a-z]+\b", text))
    found = [n for n in count if n not in NO_NAMES and n.lower() not in lower and every[n] >= 2
             and len(n) > 2 and nouns.documents[n.lower()] < 6 and not n.endswith("ness")]
    return sorted(found, key=lambda n: (-every[n], text.index(n)))


def about(text, nouns):
    """(names, things) of a story: things that it has three times or more and soon, rare ones first."""
    count = collections.Counter(re.findall(r"\b[a-z]+\b", text))
    first = text[:len(text) * 2 // 5]
    things = [w for w in count if w in nouns.words and count[w] >= 3
              and re.search(rf"\b{w}\b", first)]
    things.sort(key=lambda w: -min(count[w], 5) * np.log(nouns.count / (1 + nouns.documents[w])))
    return names(text, nouns), things[:3]


def gender(text, name):
    he = len(re.findall(r"\b(he|his|him|boy)\b", text, re.I))
    she = len(re.findall(r"\b(she|her|hers|girl)\b", text, re.I))
    return "he" if he > 3 * she else "she" if she > 3 * he else None


class Story:
    def __init__(self, text, nouns):
        self.title, self.text = title_of(text)
        self.parts = paragraphs(self.text)
        self.names, self.things = about(self.text, nouns)
        self.gender = gender(self.text, self.names[0]) if self.names else None
        self.adjectives = {t: nouns.adjective(self.text, t) for t in self.things}


def renamed(text, old, new):
    return re.sub(rf"\b{old}\b", new, text)


def a(words):
    return ("an " if words[0] in "aeiou" else "a ") + words


class Maker:
    def __init__(self, stories, rng, new_things):
        self.stories, self.rng, self.new_things = stories, rng, new_things
        self.pool = {"he": set(), "she": set()}
        for s in stories:
            if s.gender and len(s.names) == 1:
                self.pool[s.gender].add(s.names[0])
        self.pool = {g: sorted(n) for g, n in self.pool.items()}
        self.by_thing = collections.defaultdict(list)
        for s in stories:
            for t in s.things:
                self.by_thing[t].append(s)
        # what can stand for another thing: its plural ends in a plain s
        self.things = sorted(t for t in self.by_thing if not t.endswith(("s", "x", "z", "ch", "sh", "y", "f")))

    def named(self, story):
        """The story's paragraphs, with its first name swapped for another most of the time."""
        name, parts = story.names[0] if story.names else None, story.parts
        if name and story.gender and self.rng.random() < NEW_NAMES:
            new = self.rng.choice(self.pool[story.gender])
            if new not in story.text:
                parts = [renamed(p, name, new) for p in parts]
                name = new
        return name, list(parts)

    def thing(self, story, parts):
        """(a thing of the story as it is asked for, the paragraphs, with another in its place now and
        then)"""
        thing = self.rng.choice(story.things[:2] * 2 + story.things)
        adjective = story.adjectives[thing]
        new = self.rng.choice(self.things)
        if self.rng.random() < self.new_things and thing in self.things and new not in story.text \
                and (new[0] in "aeiou") == (thing[0] in "aeiou"):
            for ending in ("", "s"):
                for case in (str.lower, str.capitalize):
                    parts = [renamed(p, case(thing) + ending, case(new) + ending) for p in parts]
            thing = new
        if adjective and self.rng.random() < 0.35:
            thing = f"{adjective} {thing}"
        return a(thing), parts

    def other_end(self, story, name):
        """The last paragraph of another story with the same thing, about the same name; or None."""
        for _ in range(8):
            s = self.rng.choice(self.by_thing[self.rng.choice(story.things)])
            if s is not story and len(s.parts) > 1 and s.names and s.gender == story.gender \
                    and len(s.parts[-1]) < 700:
                end = renamed(s.parts[-1], s.names[0], name)
                if not any(re.search(rf"\b{n}\b", end) for n in s.names[1:]):
                    return end
        return None

    def split(self, parts):
        """Where a story is cut in two, after 35 to 80 % of it; or None."""
        total, at = sum(map(len, parts)), 0
        cuts = []
        for i, p in enumerate(parts[:-1]):
            at += len(p)
            if 0.35 * total < at < 0.8 * total:
                cuts.append(i + 1)
        return self.rng.choice(cuts) if cuts else None

    def title(self, story, name, request_thing):
        if story.title:
            return story.title if not story.names or story.names[0] not in story.title \
                else renamed(story.title, story.names[0], name)
        words = " ".join(w.capitalize() for w in request_thing.split()[1:])
        return f"{name} and the {words}" if name else f"The {words}"

    def request(self, name, thing):
        """(what the user asks, whether it names a thing)"""
        kind = self.rng.random()
        if name and thing and kind < 0.92:
            return self.rng.choice(WHOLE).format(name=name, thing=thing)
        if name and kind < 0.95:
            return self.rng.choice(NAME_ONLY).format(name=name)
        if thing and kind < 0.98:
            return self.rng.choice(THING_ONLY).format(thing=thing)
        return self.rng.choice(ANY)

    def turns(self, story):
        """[(role, text, learned)] of one dialogue about a story. Learned are that many characters,
        and the end of the turn where these are more than the text has."""
        pick, chance = self.rng.choice, self.rng.random
        name, parts = self.named(story)
        thing, parts = self.thing(story, parts) if story.things else (None, parts)
        out = []
        if chance() < 0.2:
            out.append(("system", pick(SYSTEMS), NOTHING))
        if chance() < 0.03:
            out += [("user", pick(HELLO["user"]), NOTHING),
                    ("assistant", pick(HELLO["assistant"]), ALL)]
        kind, cut = chance(), self.split(parts)
        whole = "\n".join(parts)
        if kind < 0.22 and cut and name and thing:          # begun, then what happens next
            out += [("user", pick(BEGIN).format(name=name, thing=thing), NOTHING),
                    ("assistant", "\n".join(parts[:cut]), ALL)]
            further = self.split(parts[cut:]) if len(parts) - cut > 3 and chance() < 0.4 else None
            if further:
                out += [("user", pick(NEXT), NOTHING),
                        ("assistant", "\n".join(parts[cut:cut + further]), ALL)]
                cut += further
            out += [("user", pick(NEXT), NOTHING), ("assistant", "\n".join(parts[cut:]), ALL)]
        elif kind < 0.40 and name and thing and len(parts) > 2 and \
                (end := self.other_end(story, name)):
            out += [("user", self.request(name, thing), NOTHING),
                    ("assistant", "\n".join(parts[:-1] + [end]), len("\n".join(parts[:-1]))),
                    ("user", pick(ENDING), NOTHING), ("assistant", parts[-1], ALL)]
        elif kind < 0.52 and cut and len(parts) > 3:        # a story that can go on
            cut = max(cut, len(parts) * 2 // 3)
            out += [("user", self.request(name, thing), NOTHING),
                    ("assistant", "\n".join(parts[:cut]), len("\n".join(parts[:cut]))),
                    ("user", pick(NEXT), NOTHING), ("assistant", "\n".join(parts[cut:]), ALL)]
        else:
            out += [("user", self.request(name, thing), NOTHING), ("assistant", whole, ALL)]
        if thing and chance() < 0.3:
            out += [("user", pick(TITLE), NOTHING),
                    ("assistant", self.title(story, name, thing), ALL)]
        if chance() < 0.04:
            out += [("user", pick(THANKS["user"]), NOTHING),
                    ("assistant", pick(THANKS["assistant"]), ALL)]
        return out


def asked_for(turns):
    """The names and the thing of what the user says."""
    said = " ".join(text for role, text, _ in turns if role == "user" and re.search(r"\babout|with\b", text))
    words = re.findall(r"\b[A-Z][a-z]+\b", said.split("about", 1)[-1])
    words += [m[1] for m in re.finditer(r"\ban? (?:[a-z]+ )?(?!begin)([a-z]+)\b(?= in it|[.,?]| begin|$)",
                                    said) if m[1] != "story"]
    return [w for w in words if w not in NO_NAMES and w != "Tell"]


def encode(tok, turns):
    """Ids as the chat template makes them, FOREIGN added to what is not learned and ASKED to what
    was asked for."""
    ids, asked = [0 | FOREIGN], asked_for(turns)
    for role, text, learned in turns:
        head = [tok.token_to_id(shared.TURN)]
        head += tok.encode(role + "\n", add_special_tokens=False).ids
        coded = tok.encode(text, add_special_tokens=False)
        body = coded.ids + [tok.token_to_id(shared.END)]
        ids += [i | FOREIGN for i in head]
        if role == "assistant" and learned:
            for word in asked:
                if m := re.search(rf"\b{word}", text, re.I):
                    for i, (begin, end) in enumerate(coded.offsets):
                        if begin < m.end() and end > m.start():
                            body[i] |= ASKED
        ids += body if learned else [i | FOREIGN for i in body]
        ids += [i | FOREIGN for i in tok.encode("\n", add_special_tokens=False).ids]
    return ids


def held_out(stories, count):
    """Requests of names and things that stories of valid.txt have."""
    out, seen = [], set()
    for s in stories:
        for t in s.things:
            if s.names and (s.names[0], t) not in seen and len(out) < count:
                seen.add((s.names[0], t))
                out.append({"name": s.names[0], "thing": t,
                            "request": WHOLE[len(out) % len(WHOLE)].format(name=s.names[0],
                                                                           thing=a(t))})
    return out


def main():
    corpus, tokenizer_file, out, *share = sys.argv[1:]
    tok = Tokenizer.from_file(tokenizer_file)
    rng = random.Random(1)
    texts = list(dict.fromkeys(data.documents(corpus, "modern.txt.zst")))
    nouns = Nouns(texts)
    stories = [Story(t, nouns) for t in texts]
    usable = [s for s in stories if (s.names or s.things) and 150 < len(s.text) < 3600
              and len(s.parts) > 1]
    maker = Maker(usable, rng, float(*share or (0.25,)))
    valid = [Story(t, nouns) for t in data.documents(corpus, "valid.txt")]
    kept_back = held_out(valid, HELD_OUT)
    stream, counts = [], collections.Counter()
    for _ in range(COPIES):
        round = usable + [s for s in usable if s.names and s.things]
        rng.shuffle(round)
        for s in round:
            turns = maker.turns(s)
            text = " ".join(t for role, t, _ in turns if role == "user")
            if any(r["name"] in text and r["thing"] in text for r in kept_back):
                continue
            ids = encode(tok, turns)
            if len(ids) <= LONGEST:
                stream += ids
                counts["dialogues"] += 1
                counts["turns"] += sum(1 for t in turns if t[0] == "assistant")
    os.makedirs(out, exist_ok=True)
    np.array(stream, dtype=np.uint16).tofile(os.path.join(out, "dialogues.bin"))
    learned = sum(1 for i in stream if not i & FOREIGN)
    with open(os.path.join(out, "held_out.json"), "w", encoding="utf-8") as f:
        json.dump(kept_back, f, indent=1)
    print(f"{len(usable)} stories, {len(nouns.words)} nouns, {counts['dialogues']} dialogues with "
          f"{counts['turns']} answers, {len(stream)} tokens, {learned} learned; "
          f"{len(kept_back)} requests held out")


if __name__ == "__main__":
    main()
