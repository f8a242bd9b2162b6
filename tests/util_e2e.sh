# Sourced by tests/e2e_*.sh: counts and prints cases. Runs in the test's own temporary directory.
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
