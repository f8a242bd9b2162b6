# corm-serve asked as agents for code ask: tests/agents/ has a request of each, of which this replays two rounds, with
# templates that take what the system says anywhere, in front only, or not at all. What asks is
# tests/e2e/util_agents.py.
. "$(dirname "$0")/util_e2e.sh"
enter_work
. "$root/tests/util/server.sh"
trap 'servers_end; rm -rf "$work"' EXIT

"$build/synth" write shape --preset tiny --context 16384 -q >log 2>&1 &&
    "$prep" convert -q shape -o shape.corm >log 2>&1 || {
    echo "not ok make a model"
    cat log
    exit 1
}

# template NAME: a template whose messages begin with $begin, and which shows tools and calls where $tools is not empty.
template() {
    cat >"$1.jinja" <<END
{%- if tools and "$tools" %}[tools]{{ tools | tojson }}{% endif %}
{%- for m in messages %}$begin[{{ m.role }}]{{ m.content }}
{%- for c in m.tool_calls or [] %}<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>{% endfor %}
{%- endfor %}
{%- if add_generation_prompt %}[assistant]{% endif %}
END
}
begin='' tools=yes
template all
begin='{% if m.role == "system" and not loop.first %}{{ raise_exception("the system comes first") }}{% endif %}'
template first
begin='{% if m.role not in ("user", "assistant") %}{{ raise_exception("no " + m.role) }}{% endif %}' tools=''
template none

for t in all first none; do
    server_start "$t" shape.corm --chat-template "$t.jinja" -t 2 --parallel 1
    python3 "$root/tests/e2e/util_agents.py" "$port" "$t" "$root/tests/agents" || failed=1
    case_ "$t: what is left out is in the log" eval \
        'grep -q "tools\[5\]: a tool of type web_search_20250305 is left out" "$t.log" &&
            grep -q "tools\[2\]: a tool of type custom is left out" "$t.log"'
    case_ "$t: ends well" server_stop "$t"
done
exit $failed
