#!/bin/sh
# Talks to corm-serve with the clients that people use: tests/clients/run.sh BUILD_DIR FOLDER [all]
#
# FOLDER gets a venv with the packages of requirements.txt from PyPI, once; with `all` also those of
# requirements-all.txt, which are large. Prints `ok NAME` for each check.
set -u
build=$1 folder=$2 all=${3:-}
here=$(dirname "$0")
python=$folder/venv/bin/python
mkdir -p "$folder" || exit 1

# install LIST: its packages, unless they are there.
install() {
    have=$folder/have-$1
    cmp -s "$here/$1" "$have" || { "$folder/venv/bin/pip" install -q -r "$here/$1" && cp "$here/$1" "$have"; }
}
[ -x "$python" ] || python3 -m venv "$folder/venv" || exit 1
install requirements.txt || exit 1
[ -z "$all" ] || install requirements-all.txt || exit 1

. "$here/../util/server.sh"
trap servers_end EXIT

"$build/corm-prep" convert -q --force tests/models/fable -o "$folder/fable.corm" || exit 1
printf '{%% for m in messages %%}{{ m.content }}{%% endfor %%}<think>' >"$folder/thinks"
failed=0
server_start "$folder/plain" "$folder/fable.corm" -q
plain=$port plain_pid=$pid
server_start "$folder/thinks-server" "$folder/fable.corm" -q --chat-template "$folder/thinks"
"$python" "$here/talk.py" "$plain" "$port" || failed=1
if [ -n "$all" ]; then
    "$python" "$here/talk_litellm.py" "$plain" || failed=1
    "$python" "$here/talk_lm_eval.py" "$plain" "$build/corm-run" "$folder/fable.corm" "$folder" || failed=1
    "$python" "$here/stress.py" "$plain" "$plain_pid" all || failed=1
fi
exit $failed
