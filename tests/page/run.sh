#!/bin/sh
# Uses the page of corm-serve in Debian's Chromium: tests/page/run.sh BUILD_DIR FOLDER
#
# FOLDER gets two archives: the demo model, and one of OLMoE's shape whose experts come and go. What a real model
# would not say at will (a hostile answer, thoughts, a slow stream) is said by tests/page/page.py, which stands
# between the browser and the first server. Prints `ok NAME` for each check.
set -u
build=$1 folder=$2
here=$(dirname "$0")
mkdir -p "$folder" || exit 1
"$build/corm-prep" convert -q --force tests/models/fable -o "$folder/fable.corm" || exit 1
if ! [ -f "$folder/shape.corm" ]; then
    rm -rf "$folder/shape"
    "$build/synth" write "$folder/shape" --preset olmoe-7b --dim 256 --ffn 64 --vocab 4096 -q &&
        "$build/corm-prep" convert -q --force "$folder/shape" -o "$folder/shape.corm" || exit 1
    rm -rf "$folder/shape"
fi
printf '{%% for m in messages %%}{{ m.content }}\n{%% endfor %%}' >"$folder/template"
echo a-key >"$folder/keys"

. "$here/../util/server.sh"
trap servers_end EXIT
server_start "$folder/fable" "$folder/fable.corm" -q
fable=$port
server_start "$folder/shape" "$folder/shape.corm" -q --chat-template "$folder/template" -c 1024 --parallel 1 --sessions 1 --max-body 256K --ram 120M
shape=$port
server_start "$folder/keyed" "$folder/fable.corm" -q --api-key-file "$folder/keys"
keyed=$port
# Debian's Python has Debian's selenium, whatever else is on PATH.
/usr/bin/python3 "$here/page.py" "$folder" "$fable" "$shape" "$keyed"
