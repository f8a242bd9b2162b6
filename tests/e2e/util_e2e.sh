# Sourced by tests/e2e/e2e_*.sh, which run from the project's root: names what they use, counts and prints cases.
set -u
LC_ALL=C
export LC_ALL

root=$(pwd)
build=${CORM_BUILD:-build/release}
case $build in /*) ;; *) build=$root/$build ;; esac
prep=$build/corm-prep
run=$build/corm-run
fable=${FABLE:-$root/tests/models/fable}
case $fable in /*) ;; *) fable=$root/$fable ;; esac

# Makes a folder, which goes when the test ends, and enters it.
enter_work() {
    work=$(mktemp -d) || exit 1
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' HUP INT TERM
    cd "$work" || exit 1
}

failed=0
# case_ NAME COMMAND...: ok where the command succeeds.
case_() {
    case_name=$1
    shift
    if "$@" >log 2>&1; then
        echo "ok $case_name"
    else
        echo "not ok $case_name"
        sed 's/^/# /' log
        failed=1
    fi
}
skip() { echo "ok $1 # SKIP $2"; }
