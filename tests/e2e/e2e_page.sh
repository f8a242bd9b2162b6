# The page of corm-serve without a browser: it is made of its files, byte for byte, and sent with headers that let
# nothing else run; what it asks for needs the key. tests/page/ has the checks in a browser (make check-page).
. "$(dirname "$0")/util_e2e.sh"
enter_work

"$prep" convert -q "$fable" -o fable.corm >log 2>&1 || {
    echo "not ok convert"
    cat log
    exit 1
}
echo a-key >keys
"$build/corm-serve" fable.corm --port 0 -q --api-key-file keys 2>server.log &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server"; rm -rf "$work"' EXIT
port=
for try in $(seq 300); do
    port=$(sed -n 's|^corm-serve: .* listens on http://.*:\([0-9]*\)$|\1|p' server.log)
    [ -z "$port" ] || break
    sleep 0.1
done
[ -n "$port" ] || { echo "not ok start"; cat server.log; exit 1; }
python3 "$root/tests/e2e/util_page.py" "$port" "$root/runtime/serve/page" a-key || failed=1

# ---- what makes the page --------------------------------------------------------------------------------

embed() { "$root/runtime/serve/page/embed.sh" "$1" >out 2>err; }
refuses() { # refuses TEXT
    ! embed page && grep -q "$1" err || { cat err; return 1; }
}
mkdir page
echo '<svg/>' >page/icon.svg
printf '<script src="a.js"></script>\n<link rel="stylesheet" href="a.css">\n' >page/index.html
echo 'a {}' >page/a.css
case_ 'a script that is not there is refused' refuses 'there is no a.js'
echo 'const a = "</script>";' >page/a.js
case_ 'a script that would end its element is refused' refuses 'a.js: expected none of'
echo 'const a = 1;' >page/a.js
case_ 'a page of two files' embed page
exit $failed
