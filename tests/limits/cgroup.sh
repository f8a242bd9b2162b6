# Sourced: a memory cgroup (v1 or v2) that a command runs in, so that the kernel keeps the limit.
#
#   cgroup_open BYTES      makes one; fails, with a line that says why, where that is not allowed
#   cgroup_run COMMAND...  runs it inside
#   cgroup_peak            the most bytes that were charged: processes, page cache, kernel
#   cgroup_hits            how often the limit was met
#   cgroup_close

cgroup=

cgroup_open() {
    cgroup= cgroup_v=
    if [ -f /sys/fs/cgroup/cgroup.controllers ] &&
        grep -qw memory /sys/fs/cgroup/cgroup.controllers; then
        cgroup_v=2 cgroup_root=/sys/fs/cgroup
        grep -qw memory $cgroup_root/cgroup.subtree_control ||
            echo +memory 2>/dev/null >$cgroup_root/cgroup.subtree_control || :
    else
        cgroup_v=1
        cgroup_root=$(awk '$(NF-2) == "cgroup" && $NF ~ /(^|,)memory(,|$)/ { print $5; exit }' \
            /proc/self/mountinfo)
    fi
    cgroup=$cgroup_root/corm-limit-$$
    if [ -z "$cgroup_root" ] || ! mkdir "$cgroup" 2>/dev/null; then
        echo "no memory cgroup can be made here (it takes root)" >&2
        cgroup=
        return 1
    fi
    case $cgroup_v in
    1) echo "$1" >"$cgroup/memory.limit_in_bytes" ;;
    2) echo "$1" >"$cgroup/memory.max" && echo 0 >"$cgroup/memory.swap.max" 2>/dev/null || : ;;
    esac
    if ! grep -qs . "$cgroup/memory.max" "$cgroup/memory.limit_in_bytes"; then
        echo "the memory controller is not to be had in $cgroup" >&2
        cgroup_close
        return 1
    fi
}

cgroup_run() {
    sh -c 'echo $$ >"$0/cgroup.procs" && exec "$@"' "$cgroup" "$@"
}

cgroup_peak() {
    cat "$cgroup/memory.max_usage_in_bytes" 2>/dev/null || cat "$cgroup/memory.peak" 2>/dev/null
}

cgroup_hits() {
    cat "$cgroup/memory.failcnt" 2>/dev/null ||
        sed -n 's/^max //p' "$cgroup/memory.events" 2>/dev/null
}

cgroup_close() {
    [ -z "$cgroup" ] || rmdir "$cgroup" 2>/dev/null || :
    cgroup=
}
