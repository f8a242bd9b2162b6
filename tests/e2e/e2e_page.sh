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
. "$root/tests/util/server.sh"
trap 'servers_end; rm -rf "$work"' EXIT
server_start server fable.corm -q --api-key-file keys
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
