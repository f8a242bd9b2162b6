"""The shared tokenizer: `python tokenizer.py CORPUS OUT [--from TOKENIZER_JSON] [--turns TEMPLATE]`.

Trains a byte-level BPE of 4,096 tokens (GPT-2's pre-tokenizer, `<|endoftext|>` = 0, then the 256
bytes, then merges) with the `tokenizers` package, or takes over an existing tokenizer.json, and
writes OUT/tokenizer.json and OUT/tokenizer_config.json with the chat template. With --turns the
tokenizer gets the tokens of conversations behind the others, and the template is that file.
"""
import argparse
import json
import os
import shutil

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

import data

VOCAB = 4096
EOT = data.SEPARATOR
MODERN_COPIES = 6
TURN, END, CALL, CALLED = "<|turn|>", "<|end|>", "<tool_call>", "</tool_call>"

# The models know stories, not conversations: a chat is the messages as paragraphs, one after the
# other, that the model goes on from. A finished answer ends its text.
CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{%- if message['role'] not in ['system', 'user', 'assistant'] -%}"
    "{{- raise_exception('unknown role: ' + message['role']) -}}"
    "{%- endif -%}"
    "{{- message['content'] | trim -}}"
    "{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- else -%}{{- '\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
)


def train(corpus):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=[EOT], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    texts = data.documents(corpus, "simple.txt.zst")
    texts += data.documents(corpus, "modern.txt.zst") * (MODERN_COPIES - 1)
    tok.train_from_iterator(texts, trainer)
    tok.post_processor = processors.TemplateProcessing(
        single=f"{EOT} $A", pair=f"{EOT} $A {EOT}:1 $B:1", special_tokens=[(EOT, 0)])
    return tok


def main():
    a = argparse.ArgumentParser()
    a.add_argument("corpus")
    a.add_argument("out")
    a.add_argument("--from", dest="existing", help="take over this tokenizer.json instead")
    a.add_argument("--turns", metavar="TEMPLATE",
                   help="add the tokens of turns and take this chat template")
    args = a.parse_args()
    os.makedirs(args.out, exist_ok=True)
    path = os.path.join(args.out, "tokenizer.json")
    if args.existing:
        shutil.copyfile(args.existing, path)
    else:
        train(args.corpus).save(path)
    if Tokenizer.from_file(path).get_vocab_size() != VOCAB:
        raise SystemExit(f"{path}: expected {VOCAB} tokens")
    if args.turns:
        tok = Tokenizer.from_file(path)
        tok.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in (TURN, END)])
        tok.add_tokens([AddedToken(t, normalized=False) for t in (CALL, CALLED)])
        tok.save(path)
        shutil.copyfile(args.turns, os.path.join(args.out, "chat_template.jinja"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EOT, "eos_token": EOT,
        "model_max_length": 1024, "clean_up_tokenization_spaces": False,
    }
    if args.turns:
        config |= {"eos_token": END, "pad_token": EOT, "model_max_length": 2048}
    else:
        config["chat_template"] = CHAT_TEMPLATE
    with open(os.path.join(args.out, "tokenizer_config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=2)
        f.write("\n")


if __name__ == "__main__":
    main()
