#!/bin/sh
# corm-prep from end to end: conversion of real and broken checkpoints, in every packing, interrupted and
# with a full disk. Prints a line `ok NAME` or `not ok NAME` for each case.
. tests/e2e/util_e2e.sh
enter_work
golden=$root/tests/golden/models
calib_text=$root/calib-data
trap 'umount "$work/small" 2>/dev/null; rm -rf "$work"' EXIT
mkdir out

# Nothing but whole archives in out/: no temporary file, no directory of an unpacked checkpoint.
clean() {
    [ -z "$(ls -A out | grep -v '\.corm$')" ] || { ls -A out; return 1; }
}

# refused OUTPUT STATUS PATTERN... -- ARGUMENT...: the conversion fails with that status and one line that
# holds every pattern, and leaves nothing behind.
refused() {
    output=$1 status=$2 patterns=
    shift 2
    while [ "$1" != -- ]; do
        patterns="$patterns
$1"
        shift
    done
    shift
    "$prep" convert -q "$@" -o "$output" >said 2>&1
    got=$?
    cat said
    [ $got -eq "$status" ] || { echo "exit status $got, expected $status"; rm -f "$output"; return 1; }
    [ "$(wc -l <said)" -eq 1 ] || { echo "expected one line"; return 1; }
    echo "$patterns" | while read -r pattern; do
        [ -z "$pattern" ] || grep -qF -e "$pattern" said || { echo "missing: $pattern"; exit 1; }
    done || return 1
    [ ! -e "$output" ] || { echo "$output exists"; rm -f "$output"; return 1; }
    clean
}

# ---- what is right -------------------------------------------------------------------------------

converts() {
    "$prep" convert "$1" -o out/$2.corm && "$prep" verify out/$2.corm && clean
}
case_ convert_fable converts "$fable" fable
for model in mixtral-tiny mixtral-fused olmoe-tiny qwen2moe-tiny qwen3moe-tiny qwen3moe-fused \
    qwen3moe-f32 qwen3moe-f16; do
    case_ convert_$model converts "$golden/$model" $model
done

inspects() {
    "$prep" inspect out/fable.corm >text && "$prep" inspect --json out/fable.corm >json || return 1
    for word in mixtral 'n_experts            8' records xxh3 'Apache License' 'options: --codec bf16' \
        '<|endoftext|>'; do
        grep -qF -e "$word" text || { echo "missing: $word"; return 1; }
    done
    grep -q '"n_experts": 8' json && grep -q '"license": ".*Apache License' json
}
case_ inspect inspects

# A directory with nothing but a configuration: its counts are those of transformers.
inspects_configs() {
    for dir in "$root"/tests/golden/configs/* "$root"/tests/golden/families/*; do
        "$prep" inspect "$dir" >text && "$prep" inspect --json "$dir" >json || return 1
        read -r count active <"$dir/params.txt"
        grep -q "in all  *$count, [0-9]* without the embedding" text &&
            grep -q "used by a token  *$active, [0-9]* without the embedding" text &&
            grep -q "\"parameters\": $count," json && grep -q "\"parameters_active\": $active," json ||
            { echo "$dir"; cat text; return 1; }
    done
    "$prep" inspect nowhere.corm >said 2>&1 && return 1
    mkdir -p empty && "$prep" inspect empty >said 2>&1 && return 1
    grep -q 'empty: no config.json' said
}
case_ inspect_a_configuration inspects_configs

same_twice() {
    "$prep" convert -q -t 1 "$fable" -o out/again.corm && cmp out/fable.corm out/again.corm
}
case_ same_file_twice_and_for_any_threads same_twice

codecs() {
    for codec in keep bf16 f16 f32 q8 q4; do
        for trunk in keep bf16 q8; do
            "$prep" convert -q -f --codec $codec --trunk $trunk "$golden/qwen2moe-tiny" -o out/codec.corm &&
                "$prep" verify -q out/codec.corm || return 1
        done
    done
    for hot in 0 0.01 1; do
        "$prep" convert -q -f --hot $hot --chunk-neurons 64 --raw-hot "$fable" -o out/codec.corm &&
            "$prep" verify -q out/codec.corm || return 1
    done
    "$prep" convert -q -f --no-compress "$fable" -o out/codec.corm && "$prep" verify -q out/codec.corm
}
case_ codecs_and_hot_prefixes codecs

# Ways to compress experts. A row: checkpoint, codec, way, what inspect says of it, the encoding of all cold
# chunks; or the pattern of a refusal.
ways() {
    while read -r model codec way said encoding; do
        [ -n "$model" ] || continue
        what="$model --codec $codec --compress $way"
        if [ "$said" = refused ]; then
            refused out/never.corm "${encoding%%:*}" "${encoding#*:}" -- --calibrate --codec $codec \
                --compress $way "$golden/$model" || { echo "$what"; return 1; }
            continue
        fi
        "$prep" convert -q -f --hot 0 --codec $codec --compress $way "$golden/$model" -o out/way.corm &&
            "$prep" verify -q out/way.corm && "$prep" inspect out/way.corm >text &&
            "$prep" inspect --json out/way.corm >json || return 1
        hash=$("$run" logits out/way.corm -q --ids 5,200,77,31,0 2>/dev/null | grep hash)
        [ "$way" != none ] || raw_hash=$hash
        grep -q "^Experts: codec [a-z0-9]*, compression $said," text && [ "$hash" = "$raw_hash" ] &&
            tr -d ' \n' <json | grep -q "\"cold_encodings\":{[^}]*\"$encoding\":24[,}]" ||
            { echo "$what: $hash, raw $raw_hash"; cat text; return 1; }
    done <<'ROWS'
olmoe-tiny keep none none raw
olmoe-tiny keep auto exponents exponents
olmoe-tiny keep zstd zstd planes
olmoe-tiny keep exponents exponents exponents
olmoe-tiny q8 none none raw
olmoe-tiny q8 auto none raw
olmoe-tiny q8 zstd zstd zstd
olmoe-tiny q8 exponents refused 2:codec q8 has no exponents code
olmoe-tiny q4 none none raw
olmoe-tiny q4 zstd zstd zstd
olmoe-tiny f16 none none raw
olmoe-tiny f16 zstd zstd planes
olmoe-tiny f16 exponents refused 2:codec f16 has no exponents code
qwen3moe-f16 keep exponents refused 1:codec f16 has no exponents code
qwen3moe-f32 keep exponents refused 1:codec f32 has no exponents code
ROWS
}
case_ ways_to_compress ways
compress_options() { # synonyms, and what contradicts itself
    "$prep" convert -q -f --no-compress "$golden/olmoe-tiny" -o out/a.corm &&
        "$prep" convert -q -f --no-compress --compress none "$golden/olmoe-tiny" -o out/b.corm &&
        cmp out/a.corm out/b.corm && "$prep" convert -q -f --compress none "$golden/olmoe-tiny" -o out/b.corm &&
        cmp out/a.corm out/b.corm && "$prep" convert -q -f --compress auto "$golden/olmoe-tiny" -o out/b.corm &&
        cmp out/olmoe-tiny.corm out/b.corm && rm out/a.corm out/b.corm || return 1
    for way in auto zstd exponents; do
        refused out/x.corm 2 "--no-compress and --compress $way exclude each other" -- --compress $way \
            --no-compress "$fable" || return 1
    done
    refused out/x.corm 2 'none, auto, zstd, exponents' -- --compress lz4 "$fable"
}
case_ compress_options compress_options
# The fused tensors of transformers 5 give the records of the Hub's tensors, byte for byte.
section() { # FILE NAME: the section's bytes
    "$prep" inspect --json "$1" | tr -d '\n' | sed 's/{ *"name"/\n&/g' |
        sed -n "s/^{ *\"name\": \"$2\", *\"offset\": \([0-9]*\), *\"bytes\": \([0-9]*\).*/\1 \2/p" >place
    read -r offset bytes <place && tail -c +$((offset + 1)) "$1" | head -c "$bytes"
}
same_sections() {
    for name in metadata trunk records tensors index tokenizer; do
        section out/$1.corm $name >a && section out/$2.corm $name >b || return 1
        [ -s a ] && cmp a b || { echo "$name differs"; return 1; }
    done
}
compared() { # what is foretold of an archive's size comes true
    "$prep" convert -q -f --hot 0 --codec q8 --compress zstd "$golden/olmoe-tiny" -o out/way.corm &&
        "$prep" inspect out/way.corm --compare-compression >text && cat text || return 1
    grep -q ': 24 of 24 cold chunks of experts' text && [ "$(grep -c '^  [a-z]* .* MB/s' text)" -eq 3 ] && ! grep -q '^  exponents ' text &&
        grep -q '^  auto .* 1.000 .*, 24 of 24 chunks raw$' text &&
        grep -q '^  zstd .* 0.9[0-9]* .*<- this archive$' text || return 1
    "$prep" convert -q -f --compress zstd "$fable" -o out/way.corm &&
        "$prep" inspect out/way.corm --compare-compression --json >json && cat json || return 1
    for row in zstd:way exponents:fable auto:fable; do
        foretold=$(tr -d ' \n' <json | grep -o "\"compression\":\"${row%:*}\",\"ratio[^}]*" |
            sed 's/.*"archive_bytes":\([0-9]*\).*/\1/')
        real=$(wc -c <"out/${row#*:}.corm")
        echo "${row%:*}: foretold $foretold, real $real"
        off=$((foretold - real))
        [ ${off#-} -lt $((real / 200)) ] || return 1
    done
    # An archive as convert makes it by itself: its chunks have one encoding, and all ways are tried.
    "$prep" inspect out/fable.corm --compare-compression >text && cat text || return 1
    [ "$(grep -c '^  [a-z]* .* MB/s' text)" -eq 4 ] && grep -q '^  exponents .*<- this archive$' text || return 1
    "$prep" inspect "$fable" --compare-compression 2>said && return 1
    cat said && grep -q 'expected an archive, not a directory' said || return 1
    section out/way.corm records >/dev/null && read -r offset bytes <place
    printf '\252' | dd of=out/way.corm bs=1 seek=$((offset + bytes - 1000)) conv=notrunc 2>/dev/null
    "$prep" inspect out/way.corm --compare-compression 2>said && return 1
    cat said && grep -q 'out/way.corm.*layer 5 expert 7 chunk 11' said
}
case_ compressions_compared compared
planned() { # what corm-run says of archives whose experts cannot be kept packed
    "$prep" convert -q -f --compress zstd "$golden/olmoe-tiny" -o out/way.corm || return 1
    "$run" logits out/way.corm --ids 5 2>said >text && cat said &&
        grep -q '^model .* in bf16, compression zstd, file' said &&
        grep -q '^memory .*; experts are never packed, the archive has no exponents code$' said &&
        "$run" logits out/olmoe-tiny.corm --ids 5 2>said >text && ! grep -q 'never packed' said || return 1
    "$prep" convert -q -f --codec q8 "$golden/olmoe-tiny" -o out/q8.corm &&
        "$run" logits out/q8.corm --ids 5 2>said >text && grep -q '^memory' said &&
        ! grep -q 'never packed' said && rm out/q8.corm || return 1
    "$run" logits out/way.corm --ids 5 --keep packed 2>said >text && return 1
    cat said && grep -q 'kept packed: .* exponents code, .* bf16 with compression zstd$' said
}
case_ plan_of_what_cannot_be_packed planned
case_ fused_mixtral_equals_single same_sections mixtral-tiny mixtral-fused
case_ fused_qwen3moe_equals_single same_sections qwen3moe-tiny qwen3moe-fused

tokenizes() {
    text='Once upon a time, a fox said: "Hello!"'
    "$prep" tokenize out/fable.corm -p "$text" >ids && "$prep" tokenize out/fable.corm -p "$text" --json >json &&
        printf %s "$text" | "$prep" tokenize out/fable.corm >ids2 && cmp ids ids2 || return 1
    "$prep" tokenize out/fable.corm --decode --no-special <ids >back || return 1
    [ "$(cat back)" = "$text" ] && grep -q '"ids":\[' json &&
        [ "$("$prep" tokenize out/fable.corm --no-special -p '<|endoftext|>')" = 0 ]
}
case_ tokenize tokenizes

# The conversation as its template renders it; the special tokens are the archive's.
renders() {
    cat >chat.json <<'EOF'
{"messages": [{"role": "system", "content": " Be \u00e9 "}, {"role": "user", "content": "Hi"},
              {"role": "assistant", "content": "Yo", "tool_calls": null}], "x": 1.50}
EOF
    printf '<|endoftext|>Be \303\251\nHi\nYo<|endoftext|>' >wanted
    "$prep" template out/fable.corm -m chat.json >text && cmp text wanted || return 1
    printf '{{ bos_token }}{%% for m in messages %%}{{ m|tojson }}{%% endfor %%}{{ x }}{{ tools }}{{ add_generation_prompt }}' >own.jinja
    printf '<|endoftext|>{"role": "system", "content": " Be \303\251 "}{"role": "user", "content": "Hi"}' >wanted
    printf '{"role": "assistant", "content": "Yo"}1.5NoneTrue' >>wanted
    "$prep" template out/fable.corm -m chat.json -g --chat-template own.jinja >text && cmp text wanted || return 1
    echo '[{"role": "tool", "content": ""}]' >chat.json
    "$prep" template out/fable.corm -m chat.json >said 2>&1 && return 1
    grep -q '^corm-prep: out/fable.corm: chat template: line 1, column [0-9]*: the template refuses: unknown role: tool$' \
        said || return 1
    echo '[{"role": "user",}]' >chat.json
    "$prep" template out/fable.corm -m chat.json >said 2>&1 && return 1
    grep -q '^corm-prep: chat.json: line 1, column 18: expected a key' said || return 1
    echo '{"messages": 3}' >chat.json
    "$prep" template out/fable.corm -m chat.json >said 2>&1 && return 1
    grep -q '^corm-prep: chat.json: ' said || return 1
    "$prep" template out/fable.corm -m absent.json >said 2>&1 && return 1
    grep -q '^corm-prep: absent.json: ' said || return 1
    echo '[]' >chat.json && printf 'a\n{{ 1 +' >own.jinja
    "$prep" template out/fable.corm -m chat.json --chat-template own.jinja >said 2>&1 && return 1
    grep -q '^corm-prep: own.jinja: line 2, column' said || return 1
    "$prep" template out/fable.corm -m chat.json --chat-template absent.jinja >said 2>&1 && return 1
    grep -q '^corm-prep: absent.jinja: ' said || return 1
    "$prep" template out/fable.corm >said 2>&1
    [ $? -eq 2 ] && grep -q 'needs --messages' said
}
case_ template renders

# Templates with names, and special tokens with names of their own, are in the archive.
named() {
    rm -rf named && cp -r "$golden/olmoe-tiny" named && chmod -R u+w named && mkdir -p named/additional_chat_templates || return 1
    printf 'usual {{ pad_token }}' >named/chat_template.jinja
    printf 'tools {{ tools[0].function.name }}' >named/additional_chat_templates/tool_use.jinja
    printf 'r {{ messages.role.x }}' >named/additional_chat_templates/rag.jinja
    sed -i 's/"bos_token"/"pad_token": "<|endoftext|>", "bos_token"/' named/tokenizer_config.json
    "$prep" convert -f named -o out/named.corm >text 2>said || { cat said; return 1; }
    grep -q 'the chat template rag is stored, but does not render here: line 1, column' said && ! grep -q tool_use said || { cat said; return 1; }
    "$prep" verify out/named.corm >text 2>&1 || return 1
    echo '{"messages": [], "tools": [{"function": {"name": "f"}}]}' >chat.json
    "$prep" template out/named.corm -m chat.json >text && [ "$(cat text)" = 'tools f' ] || return 1
    "$prep" template out/named.corm -m chat.json --chat-template default >text && [ "$(cat text)" = 'usual <|endoftext|>' ] || return 1
    echo '[]' >chat.json
    "$prep" template out/named.corm -m chat.json >text && [ "$(cat text)" = 'usual <|endoftext|>' ] || return 1
    "$prep" inspect out/named.corm >text && grep -q 'chat template *tool_use, 34 B' text && grep -q 'pad_token <|endoftext|>' text || return 1
    "$prep" inspect out/named.corm --json >text && grep -q '"rag": "r {{ messages.role.x }}"' text || return 1
    "$run" out/named.corm -q --chat --chat-template tool_use -p x -n 0 --echo >said 2>&1 && return 1
    grep -q "tool_use: chat template: line 1, column" said || { cat said; return 1; }
    "$run" out/named.corm -q --chat --chat-template nix -p x -n 0 >said 2>&1 && return 1
    grep -q 'has no template of that name: nix: cannot open' said || { cat said; return 1; }
    if command -v python3 >/dev/null 2>&1; then # a second reader finds it, too
        python3 "$root/tests/golden/read_corm.py" out/named.corm >text && grep -q '^section conversations [0-9]* ' text || return 1
    fi
    # A section that is not needed is not written.
    "$prep" inspect out/fable.corm >text && ! grep -q conversations text
}
case_ chat_templates_by_name named

# A template that does not work is stored, and told in one line.
no_rendering() {
    rm -rf remark && cp -r "$golden/olmoe-tiny" remark && chmod -R u+w remark || return 1
    printf 'a\n{{ messages.role.x }}' >remark/chat_template.jinja
    "$prep" convert -f remark -o out/remark.corm >text 2>said || return 1
    [ "$(grep -c '^remark: the chat template is stored, but does not render here: line 2, column' said)" = 1 ] || return 1
    printf '{{ messages[0].content }}' >remark/chat_template.jinja
    "$prep" convert -f remark -o out/remark.corm >text 2>said && ! grep -q 'chat template' said
}
case_ template_that_does_not_render no_rendering

# ---- packed checkpoints --------------------------------------------------------------------------

mkdir model && cp -r "$fable"/. model && chmod -R u+w model
packed() { # FILE: converts to the same bytes as the directory
    "$prep" convert -q -f "$1" -o out/packed.corm && cmp out/fable.corm out/packed.corm && clean
}
tar -cf model.tar model && case_ tar packed model.tar
tar -cf - model | gzip -1 >model.tar.gz && case_ tar_gz packed model.tar.gz
(cd model && tar -cf - .) >flat.tar && case_ tar_without_directory packed flat.tar
if command -v zstd >/dev/null; then
    zstd -q model.tar -o model.tar.zst && case_ tar_zst packed model.tar.zst
else
    skip tar_zst 'no zstd program'
fi
if command -v zip >/dev/null; then
    zip -1 -q -r model.zip model && case_ zip packed model.zip
else
    skip zip 'no zip program'
fi

# Shards in a folder: from a directory and from an archive the same file, with the sections of the flat one.
mkdir -p folders/weights && cp "$golden"/mixtral-tiny/[ct]*.json folders && chmod -R u+w folders &&
    cp "$golden"/mixtral-tiny/model-*.safetensors folders/weights &&
    sed 's/: "model-/: "weights\/model-/' "$golden/mixtral-tiny/model.safetensors.index.json" \
        >folders/model.safetensors.index.json && cp "$golden/mixtral-tiny/generation_config.json" folders &&
    tar -cf folders.tar folders
in_folders() {
    "$prep" convert -q folders -o out/folders.corm && same_sections mixtral-tiny folders &&
        "$prep" convert -q folders.tar -o out/folders-tar.corm && cmp out/folders.corm out/folders-tar.corm &&
        "$prep" inspect out/folders.corm | grep -q 'weights/model-00002-of-00002.safetensors' && clean || return 1
    "$prep" convert -q -f folders -o folders/weights/model-00002-of-00002.safetensors && return 1
    cmp folders/weights/model-00002-of-00002.safetensors "$golden/mixtral-tiny/model-00002-of-00002.safetensors"
}
case_ shards_in_folders in_folders

# What is left out is told, unless all is to be quiet.
remarks() {
    cp -r folders remarks && echo '{"top_p": 1.5}' >remarks/generation_config.json &&
        "$prep" convert remarks -o out/remarks.corm 2>said >text && grep -q 'top_p: 1.5 is not' said &&
        "$prep" convert -q -f remarks -o out/remarks.corm >said 2>&1 && [ ! -s said ]
}
case_ remarks remarks
# Names with newlines and escape sequences forge no line, in whatever prints them, and drive no terminal.
forged() {
    rm -rf forged && cp -r model forged || return 1
    echo mine >"forged/LICENSE
license: MIT
source: forged"
    echo mine >"forged/COPYING$(printf '\033[31m\302\233')"
    tar -cf forged.tar forged && "$prep" convert -q -f forged.tar -o out/forged.corm &&
        "$prep" inspect out/forged.corm >text && "$prep" inspect --json out/forged.corm >json || return 1
    cat text
    ! grep -q '^ *license: MIT\|^ *source: forged' text && ! grep -q '"MIT"\|"forged' json &&
        grep -q 'LICENSE?license: MIT?source: forged' text || return 1
    ! LC_ALL=C grep -q "$(printf '\033')" text json && ! LC_ALL=C grep -q "$(printf '\302\233')" text json || return 1
    cp out/forged.corm "new
line$(printf '\033\302\233').corm" && rm out/forged.corm && for command in verify inspect 'inspect --json' report; do
        "$prep" $command new*line*.corm >text 2>&1
        ! LC_ALL=C grep -q "$(printf '\033')" text && ! LC_ALL=C grep -q "$(printf '\302\233')" text &&
            ! grep -q '^line' text || { cat -v text; return 1; }
    done
}
case_ names_forge_no_lines forged

mkdir -p evil/sub && cp model/* evil/ && (cd evil/sub && tar -P -cf ../../evil.tar ../config.json)
case_ tar_leading_out refused out/x.corm 1 evil.tar 'leads out of the archive' -- evil.tar
mkdir link && cp model/* link/ && rm link/config.json && ln -s ../model/config.json link/config.json
tar -cf link.tar link
case_ tar_with_link refused out/x.corm 1 link/config.json 'is a link' -- link.tar
tar -cf two.tar model evil
case_ tar_with_two_checkpoints refused out/x.corm 1 'two checkpoints' model/ evil/ -- two.tar
tar -cf none.tar model/README.md
case_ tar_without_checkpoint refused out/x.corm 1 none.tar 'no config.json' -- none.tar
head -c 400000 model.tar.gz >cut.tar.gz
case_ tar_truncated refused out/x.corm 1 cut.tar.gz -- cut.tar.gz
head -c 100000 /dev/urandom >noise.bin
case_ not_an_archive refused out/x.corm 1 noise.bin 'neither a directory nor a .tar' -- noise.bin

# ---- broken checkpoints --------------------------------------------------------------------------

broken() { rm -rf broken && cp -r "$golden/$1" broken && chmod -R u+w broken; }

broken mixtral-tiny && rm broken/model-00002-of-00002.safetensors
case_ missing_shard refused out/x.corm 1 model-00002-of-00002.safetensors missing -- broken
broken olmoe-tiny && sed -i 's/"intermediate_size": 32/"intermediate_size": 48/' broken/config.json
case_ wrong_shape refused out/x.corm 1 'tensor "model.layers.0.mlp.experts.0.gate_proj.weight"' \
    'shape is [32, 64], the configuration implies [48, 64]' -- broken
broken olmoe-tiny && sed -i '1s/"BF16"/"BX16"/' broken/model.safetensors
case_ unknown_dtype refused out/x.corm 1 'tensor "' 'unknown dtype "BX16"' -- broken
broken olmoe-tiny && head -c -2 "$golden/olmoe-tiny/model.safetensors" >broken/model.safetensors &&
    printf '\300\177' >>broken/model.safetensors
case_ nan_weight refused out/x.corm 1 'tensor "model.' 'is NaN' -- broken
broken olmoe-tiny && head -c -1 "$golden/olmoe-tiny/model.safetensors" >broken/model.safetensors
case_ truncated_weights refused out/x.corm 1 model.safetensors 'truncated?' -- broken
broken olmoe-tiny && sed -i 's/Olmoe/Llama/; s/olmoe/llama/' broken/config.json
case_ unknown_family refused out/x.corm 1 LlamaForCausalLM 'supported families: ' olmoe -- broken
broken olmoe-tiny && rm broken/tokenizer.json
case_ missing_tokenizer refused out/x.corm 1 'no tokenizer.json' -- broken
# The tokenizer has 280 ids and the embedding 288 rows; then one id more than rows.
far() {
    broken olmoe-tiny && sed -i 's/"vocab":{/&"far":'$1',/' broken/tokenizer.json &&
        ! cmp -s broken/tokenizer.json "$golden/olmoe-tiny/tokenizer.json"
}
far 287 && case_ id_of_the_last_row eval 'converts broken far && rm out/far.corm'
far 288 && case_ id_beyond_the_vocabulary refused out/x.corm 1 'broken: token ids up to 288' '288 rows' -- broken
case_ id_beyond_the_vocabulary_calibrating refused out/x.corm 1 'broken: token ids up to 288' '288 rows' -- \
    broken --calib "$calib_text/stories"
broken olmoe-tiny && echo '{' >broken/tokenizer.json
case_ broken_tokenizer refused out/x.corm 1 tokenizer.json -- broken
case_ missing_checkpoint refused out/x.corm 1 nowhere -- nowhere
# What only looks like a checkpoint: test_foreign has all kinds.
case_ name_on_the_hub refused out/x.corm 1 'Hugging Face Hub' \
    'huggingface-cli download Qwen/Qwen3-30B-A3B' -- Qwen/Qwen3-30B-A3B
broken olmoe-tiny && printf 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n' >broken/tokenizer.json
case_ pointer_of_git_lfs refused out/x.corm 1 broken/tokenizer.json 'git lfs pull' -- broken
tar -cf pointer.tar broken
case_ pointer_of_git_lfs_in_a_tar refused out/x.corm 1 tokenizer.json 'git lfs pull' -- pointer.tar
broken olmoe-tiny && rm broken/model.safetensors && ln -s ../../blobs/0.incomplete broken/model.safetensors
case_ download_not_finished refused out/x.corm 1 broken/model.safetensors 'download again' -- broken
broken olmoe-tiny && mv broken/model.safetensors broken/adapter_model.safetensors && echo '{}' >broken/adapter_config.json
case_ adapter refused out/x.corm 1 adapter_config.json merge_and_unload -- broken
inspects_no_adapter() {
    "$prep" inspect broken >said 2>&1
    [ $? -eq 1 ] && grep -q merge_and_unload said || return 1
    "$prep" inspect Qwen/Qwen3-30B-A3B >said 2>&1
    [ $? -eq 1 ] && grep -q 'huggingface-cli download Qwen/Qwen3-30B-A3B' said
}
case_ inspect_adapter inspects_no_adapter
broken qwen3moe-tiny && sed -i 's/layers.1.mlp.gate_proj.weight/layers.1.mlp.gate_proj.scales/' broken/model.safetensors
case_ quantised_by_tensors refused out/x.corm 1 'layers.1.mlp.gate_proj.scales"' 'quantised by MLX' -- broken
broken olmoe-tiny && fill_tensor broken lm_head.weight 110
case_ weights_beyond_a_codec refused out/x.corm 1 'tensor "lm_head.weight": weight [0, 0] is 204800' 'codec f16' \
    -- --trunk f16 broken
mixed_experts() {
    broken olmoe-tiny && sed -i 's/\("[a-z0-9._]*experts.3.up_proj.weight": *{"dtype": *\)"BF16"/\1"F16" /' broken/model.safetensors &&
        "$prep" convert broken -o out/mixed.corm >said 2>err || { cat err; return 1; }
    grep -q '^broken: experts are of several types' err && grep -q ' in f32,' said &&
        "$prep" convert -f --codec bf16 broken -o out/mixed.corm 2>err && ! grep several err &&
        "$prep" convert -f "$fable" -o out/mixed.corm 2>err && ! grep several err
}
case_ experts_of_several_types mixed_experts
case_ chunk_not_of_32 refused out/x.corm 1 'multiple of 32' -- --chunk-neurons 40 "$fable"

# ---- where the output lies -----------------------------------------------------------------------

keeps_existing() {
    echo precious >out/kept.corm
    "$prep" convert -q "$fable" -o out/kept.corm >said 2>&1 && return 1
    cat said
    grep -q 'exists already' said && [ "$(cat out/kept.corm)" = precious ] || return 1
    "$prep" convert -q --force "$fable" -o out/kept.corm && cmp out/kept.corm out/fable.corm
}
case_ existing_output_is_kept keeps_existing
shard=model-00001-of-00002.safetensors
keeps_input() {
    "$prep" convert -q --force model -o model/$shard && return 1
    "$prep" convert -q --force model.tar -o model.tar && return 1
    cmp model/$shard "$fable/$shard" && packed model.tar
}
case_ input_is_never_the_output keeps_input
case_ no_such_directory refused nowhere/x.corm 1 nowhere -- "$fable"
needs_output() {
    "$prep" convert "$fable" 2>said
    [ $? -eq 2 ] && grep -q -e '-o MODEL.corm' said
}
case_ output_must_be_named needs_output

# ---- interruption and full disks -----------------------------------------------------------------

# Start a conversion and send a signal as soon as its temporary file is there; again, where it was faster.
interrupted() { # SIGNAL STATUS
    for try in 1 2 3 4 5 6 7 8 9 10; do
        rm -f out/killed.corm*
        $default_hup "$prep" convert -q -t 1 --codec q4 "$fable" -o out/killed.corm 2>said &
        pid=$!
        while [ ! -e out/killed.corm.tmp ] && kill -0 $pid 2>/dev/null; do :; done
        kill -"$1" $pid 2>/dev/null
        wait $pid
        [ $? -eq "$2" ] || continue
        [ ! -e out/killed.corm ] || { echo "an archive is under the final name"; return 1; }
        cat said
        return 0
    done
    echo "never interrupted"
    return 1
}
killed() {
    interrupted KILL 137 || return 1
    [ -e out/killed.corm.tmp ] && [ -e out/killed.corm.lock ] || return 1
    "$prep" convert -q "$fable" -o out/killed.corm && "$prep" verify -q out/killed.corm && clean
}
case_ kill_9_leaves_no_archive_and_the_next_cleans_up killed
killed_unpacking() {
    for try in 1 2 3 4 5 6 7 8 9 10; do
        rm -f out/killed.corm*
        "$prep" convert -q model.tar.gz -o out/killed.corm 2>said &
        pid=$!
        while [ ! -e out/.killed.corm.corm-prep-unpacked ] && kill -0 $pid 2>/dev/null; do :; done
        kill -KILL $pid 2>/dev/null
        wait $pid
        [ $? -eq 137 ] && [ -d out/.killed.corm.corm-prep-unpacked ] || continue
        "$prep" convert -q model.tar.gz -o out/killed.corm && cmp out/fable.corm out/killed.corm && clean
        return
    done
    echo "never interrupted"
    return 1
}
case_ killed_while_unpacking killed_unpacking
# Two at once: the second is refused, the first does not notice. Again, where the first had ended before it
# could be stopped.
two_at_once() {
    for try in 1 2 3 4 5 6 7 8 9 10; do
        rm -rf out/killed.corm*
        "$prep" convert -q "$fable" -o out/killed.corm --calib "$calib_text/stories" \
            --calib-held "$calib_text/heldout" --calib-tokens 512 2>first &
        pid=$!
        while [ ! -e out/killed.corm.calib ] && kill -0 $pid 2>/dev/null; do :; done
        kill -STOP $pid 2>/dev/null
        if [ ! -e out/killed.corm.lock ] || [ -e out/killed.corm ]; then
            kill -CONT $pid 2>/dev/null
            wait $pid || { cat first; return 1; }
            continue
        fi
        "$prep" convert -q "$fable" -o out/killed.corm 2>said
        status=$?
        kill -CONT $pid
        wait $pid || { cat first; return 1; }
        cat said
        [ $status -eq 1 ] && grep -q 'out/killed.corm: another process is writing it' said &&
            "$prep" verify -q out/killed.corm && clean
        return
    done
    echo "never two at once"
    return 1
}
case_ two_at_once two_at_once
stopped() { interrupted "$1" 130 && grep -q 'interrupted: out/killed.corm has not been written' said && clean; }
case_ ctrl_c stopped INT
case_ sigterm stopped TERM
case_ sighup stopped HUP
# An end that the program cannot put off, as when it finds itself in an impossible state: nothing is left.
ended() { (ulimit -c 0 && interrupted "$1" "$2") && clean; }
case_ abort_leaves_nothing ended ABRT 134
case_ a_call_that_is_forbidden_leaves_nothing ended SYS 159
case_ alarm_leaves_nothing ended ALRM 142
[ -z "$default_hup" ] || case_ sigquit_leaves_nothing ended QUIT 131
# Whoever asks twice does not wait: it is cleaned up all the same.
asked_twice() {
    for try in 1 2 3 4 5 6 7 8 9 10; do
        rm -f out/killed.corm*
        "$prep" convert -q -t 1 --codec q4 "$fable" -o out/killed.corm 2>said &
        pid=$!
        while [ ! -e out/killed.corm.tmp ] && kill -0 $pid 2>/dev/null; do :; done
        kill -STOP $pid && kill -TERM $pid && kill -XCPU $pid && kill -CONT $pid
        wait $pid
        status=$?
        [ $status -ne 0 ] || continue
        echo "status $status"
        [ $status -eq 143 ] || [ $status -eq 152 ] || return 1
        [ ! -e out/killed.corm ] && [ ! -s said ] && clean
        return
    done
    echo "never interrupted"
    return 1
}
case_ asked_twice_leaves_nothing asked_twice
# A tokenizer that takes seconds to read: the soft limit on time asks for an end after the first one, long before
# the hard one kills. A machine that is faster than that gets the error of its ids.
slow_to_read() {
    rm -rf slow && cp -r "$golden/olmoe-tiny" slow && chmod -R u+w slow && {
        printf '{"model":{"vocab":{' && seq 1000000 4500000 | sed 's/.*/"&":1,/' && echo '"x":2}}}'
    } >slow/tokenizer.json || return 1
    (ulimit -c 0 && ulimit -S -t 1 && ulimit -H -t 2 && exec "$prep" convert -q slow -o out/killed.corm) 2>said
    status=$?
    cat said
    rm -rf slow
    [ $status -eq 1 ] || { [ $status -eq 130 ] && grep -q '^corm-prep: interrupted: out/killed.corm has not' said; } || return 1
    [ ! -e out/killed.corm ] && clean
}
case_ ended_while_the_tokenizer_is_read slow_to_read
# A file of weights is cut while it is read: one line with its name, and nothing is left. Again, where the
# conversion was faster than that.
cut_while_reading() {
    for try in 1 2 3 4 5 6 7 8 9 10; do
        rm -rf cut out/killed.corm* && cp -r model cut
        "$prep" convert -q -t 1 --codec q4 cut -o out/killed.corm 2>said &
        pid=$!
        while [ ! -e out/killed.corm.tmp ] && kill -0 $pid 2>/dev/null; do :; done
        kill -STOP $pid 2>/dev/null
        : >cut/model-00002-of-00002.safetensors
        kill -CONT $pid 2>/dev/null
        wait $pid
        status=$?
        cat said
        [ $status -ne 0 ] || continue
        [ $status -eq 1 ] && [ "$(wc -l <said)" -eq 1 ] || { echo "status $status"; return 1; }
        grep -q "^corm-prep: .*cut/model-00002-of-00002.safetensors: cannot be read at byte [0-9]*: it was" said &&
            clean
        return
    done
    echo "never cut in time"
    return 1
}
case_ weights_truncated_while_read cut_while_reading
# The same while an archive is unpacked, as soon as PLACE is there below the folder for it.
ended_unpacking() { # SIGNAL STATUS PLACE
    for try in 1 2 3 4 5 6 7 8 9 10; do
        rm -f out/killed.corm*
        (ulimit -c 0 && exec "$prep" convert -q model.tar.gz -o out/killed.corm) 2>said &
        pid=$!
        while [ ! -e "out/.killed.corm.corm-prep-unpacked$3" ] && kill -0 $pid 2>/dev/null; do :; done
        kill -"$1" $pid 2>/dev/null
        wait $pid
        [ $? -eq "$2" ] || continue
        cat said
        [ ! -e out/killed.corm ] && clean
        return
    done
    echo "never interrupted"
    return 1
}
case_ abort_while_unpacking ended_unpacking ABRT 134 /model/tokenizer.json
stopped_unpacking() { ended_unpacking INT 130 '' && grep -q interrupted said; }
case_ ctrl_c_while_unpacking stopped_unpacking

file_limit() {
    (ulimit -f 4096 && "$prep" convert -q "$fable" -o out/x.corm) >said 2>&1 && return 1
    cat said
    grep -q 'out/x.corm.*File too large' said && [ ! -e out/x.corm ] && clean
}
case_ file_too_large file_limit
if [ "$(id -u)" -eq 0 ] && mkdir small && mount -t tmpfs -o size=6m tmpfs small 2>/dev/null; then
    disk_full() {
        "$prep" convert -q "$fable" -o small/x.corm >said 2>&1 && return 1
        cat said
        grep -q 'small/x.corm.*No space left on device' said && [ -z "$(ls -A small)" ]
    }
    case_ disk_full disk_full
    unpack_full() {
        "$prep" convert -q model.tar -o small/x.corm >said 2>&1 && return 1
        cat said
        grep -q 'unpacking needs [0-9]* MiB' said && [ -z "$(ls -A small)" ]
    }
    case_ no_room_to_unpack unpack_full
else
    skip disk_full 'no right to mount a small file system'
    skip no_room_to_unpack 'no right to mount a small file system'
fi

# ---- damage and memory ---------------------------------------------------------------------------

damaged() {
    cp out/fable.corm out/bad.corm
    section out/fable.corm records >/dev/null && read -r offset bytes <place
    printf '\252' | dd of=out/bad.corm bs=1 seek=$((offset + 1000)) conv=notrunc 2>/dev/null
    cmp -s out/fable.corm out/bad.corm && return 1
    "$prep" verify -q out/bad.corm >said 2>&1 && return 1
    cat said
    grep -Eq 'bad.corm.*layer [0-9]+ expert [0-9]+ chunk [0-9]+' said
}
case_ verify_names_the_bad_chunk damaged

# A checkpoint of 0.6 GB of zeros, which takes no room on disk.
big_checkpoint() {
    mkdir big && cp model/tokenizer*.json big/ || return 1
    cat >big/config.json <<'JSON'
{"architectures": ["MixtralForCausalLM"], "model_type": "mixtral", "vocab_size": 4096, "hidden_size": 1024,
 "intermediate_size": 4096, "num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 8,
 "num_local_experts": 8, "eos_token_id": 0, "tie_word_embeddings": true}
JSON
    awk 'function tensor(name, rows, cols,   n, shape) {
             n = 2 * rows * cols; shape = rows == 1 ? cols : rows "," cols
             printf "%s\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%d,%d]}", \
                 at ? "," : "{", name, shape, at, at + n
             at += n
         }
         BEGIN {
             tensor("model.embed_tokens.weight", 4096, 1024); tensor("model.norm.weight", 1, 1024)
             for (l = 0; l < 3; l++) {
                 p = "model.layers." l "."
                 tensor(p "input_layernorm.weight", 1, 1024); tensor(p "post_attention_layernorm.weight", 1, 1024)
                 split("q k v o", name, " ")
                 for (i in name) tensor(p "self_attn." name[i] "_proj.weight", 1024, 1024)
                 tensor(p "block_sparse_moe.gate.weight", 8, 1024)
                 for (e = 0; e < 8; e++) {
                     tensor(p "block_sparse_moe.experts." e ".w1.weight", 4096, 1024)
                     tensor(p "block_sparse_moe.experts." e ".w2.weight", 1024, 4096)
                     tensor(p "block_sparse_moe.experts." e ".w3.weight", 4096, 1024)
                 }
             }
             printf "}"; print at >"big/bytes"
         }' >big/header
    n=$(wc -c <big/header)
    {
        for bit in 0 8 16 24 32 40 48 56; do printf "\\$(printf %o $((n >> bit & 255)))"; done
        cat big/header
    } >big/model.safetensors
    truncate -s $((8 + n + $(cat big/bytes))) big/model.safetensors
}
memory_bounded() {
    big_checkpoint && "$prep" convert -q --json --codec q8 big -o out/big.corm >said || return 1
    peak=$(sed -n 's/ *"peak_rss_bytes": *\([0-9]*\).*/\1/p' said)
    echo "peak $((peak >> 20)) MiB of a model of 600 MiB"
    rm -f out/big.corm
    [ "$peak" -gt 0 ] && [ "$peak" -lt $((200 << 20)) ]
}
case $prep in
*/release*/* | */debug*/*) case_ memory_bounded memory_bounded ;;
*) skip memory_bounded 'a sanitizer needs memory of its own' ;;
esac

exit $failed
