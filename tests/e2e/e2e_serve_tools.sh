# Calls of tools through corm-serve: templates that write them in different forms, one that knows none, calls that
# are required, and what was called before. The questions are asked by tests/e2e/util_tools.py.
. "$(dirname "$0")/util_e2e.sh"
client() { python3 "$root/tests/e2e/util_tools.py" "$@"; }
enter_work

"$prep" convert -q "$fable" -o fable.corm >log 2>&1 || {
    echo "not ok convert"
    cat log
    exit 1
}
. "$root/tests/util/server.sh"
trap 'servers_end; rm -rf "$work"' EXIT
start() { # start NAME OPTION...
    name=$1
    shift
    server_start "$name" fable.corm -t 2 "$@"
}

# template NAME CALL [BEFORE AFTER]: a template that shows definitions, results, and a call `c` of a message so.
template() {
    cat >"$1.jinja" <<END
{%- if tools %}[tools]{{ tools | tojson }}{% endif %}
{%- for m in messages %}[{{ m.role }}]{{ m.content }}
{%- if m.tool_calls %}${3-}{% for c in m.tool_calls %}$2{% endfor %}${4-}{% endif %}
{%- if m.tool_call_id %}(of {{ m.tool_call_id }}){% endif %}[end]
{%- endfor %}
{%- if add_generation_prompt %}[assistant]{% endif %}
END
}
template hermes '<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}
</tool_call>'
template qwen-coder '<tool_call>
<function={{ c.function.name }}>
{% for k, v in c.function.arguments | items %}<parameter={{ k }}>
{{ v }}
</parameter>
{% endfor %}</function>
</tool_call>'
template glm '<tool_call>{{ c.function.name }}
{% for k, v in c.function.arguments | items %}<arg_key>{{ k }}</arg_key>
<arg_value>{{ v }}</arg_value>
{% endfor %}</tool_call>'
template mistral '[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}'
template json '{"name": "{{ c.function.name }}", "parameters": {{ c.function.arguments | tojson }}}'
template harmony ' to=functions.{{ c.function.name }}<|channel|>commentary json<|message|>{{ c.function.arguments | tojson }}<|call|>'
template gemma '<|tool_call>call:{{ c.function.name }}{{ "{" }}{% for k, v in c.function.arguments | items %}{{ k }}:{% if v is string %}<|"|>{{ v }}<|"|>{% else %}{{ v }}{% endif %}{% if not loop.last %},{% endif %}{% endfor %}{{ "}" }}<tool_call|>'
template kimi '<|tool_call_begin|>{{ c.id }}<|tool_call_argument_begin|>{{ c.function.arguments | tojson }}<|tool_call_end|>' '<|tool_calls_section_begin|>' '<|tool_calls_section_end|>'
template gigachat '<|message_sep|>

function call<|role_sep|>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}<|message_sep|>'
# Arguments as they were sent, and ids of nine letters, or it refuses.
template mistral-list '{% if c.id | length != 9 %}{{ raise_exception("bad id") }}{% endif %}{"name": "{{ c.function.name }}", "arguments": {{ "" + c.function.arguments }}, "id": "{{ c.id }}"}' '[TOOL_CALLS][' ']'

for form in hermes qwen-coder glm mistral json harmony gemma mistral-list kimi gigachat; do
    start "$form" --chat-template "$form.jinja"
    client form "$port" "$form" || failed=1
    case_ "$form: ends well" server_stop "$form"
done
start more --chat-template hermes.jinja
client more "$port" hermes || failed=1
case_ 'what is left out, and loosened, is in the log' eval \
    'grep -q "tools\[0\]: a tool of type web_search is left out" more.log && grep -q "multipleOf.*any JSON" more.log'
case_ 'a server with tools ends well' server_stop more
start plain
client plain "$port" hermes || failed=1
case_ 'one whose template knows no tools ends well' server_stop plain
cat >two.jinja <<'END'
{%- for m in messages %}{% if m.role not in ("user", "assistant") %}{{ raise_exception("no " + m.role) }}{% endif %}
{%- if loop.index0 % 2 != (m.role == "assistant") | int %}{{ raise_exception("not in turn") }}{% endif %}[{{ m.role }}]{{ m.content }}
{%- endfor %}[assistant]
END
start two --chat-template two.jinja
client two "$port" hermes || failed=1
case_ 'one whose template takes two roles in turn ends well' server_stop two

exit $failed
