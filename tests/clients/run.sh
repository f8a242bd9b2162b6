#!/bin/sh
# Talks to corm-serve with the clients that people use: tests/clients/run.sh BUILD_DIR FOLDER
#
# FOLDER gets a venv with the packages of requirements.txt from PyPI, once. Prints `ok NAME` for each check.
set -u
build=$1 folder=$2
here=$(dirname "$0")
mkdir -p "$folder" || exit 1
if ! [ -x "$folder/venv/bin/python" ] || ! cmp -s "$here/requirements.txt" "$folder/have"; then
    python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install -q -r "$here/requirements.txt" &&
        cp "$here/requirements.txt" "$folder/have" || exit 1
fi
"$build/corm-prep" convert -q --force tests/models/fable -o "$folder/fable.corm" || exit 1
"$build/corm-serve" "$folder/fable.corm" --port 0 -q 2>"$folder/log" &
server=$!
trap 'kill "$server"; wait "$server"' EXIT
port=
for try in $(seq 300); do
    port=$(sed -n 's|^corm-serve: .* listens on http://.*:\([0-9]*\)$|\1|p' "$folder/log")
    [ -z "$port" ] || break
    sleep 0.1
done
[ -n "$port" ] || { cat "$folder/log"; exit 1; }
"$folder/venv/bin/python" "$here/talk.py" "$port"
