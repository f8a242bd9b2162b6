"""Write templates.json: templates that use one feature each, and what jinja2 makes of them.

    tests/golden/make_templates.py

Developer-only: needs jinja2 (3.1). Set up as in templates.py, from which the environment comes. Each case becomes
`{"template", "context", "text"}`, or `"error"` with what jinja2 said where it fails (ours says it in other words).
"""
import json
import pathlib

from templates import by_jinja

HERE = pathlib.Path(__file__).parent

CONTEXT = {
    "s": "Hello, World",
    "u": "Ünï 日本 😀",
    "n": 7,
    "f": 2.5,
    "t": True,
    "no": False,
    "none_": None,
    "list": [3, 1, 2],
    "words": ["pear", "Apple", "fig", "apple"],
    "empty": [],
    "dict": {"b": 2, "a": 1, "C": 3},
    "items": {"items": "mine", "keys": 1},
    "users": [
        {"name": "Ann", "age": 30, "admin": True, "address": {"city": "Bern"}},
        {"name": "bob", "age": 25, "address": {"city": "Chur"}},
        {"name": "Cy", "age": 30, "admin": False, "address": {"city": "bern"}},
    ],
    "tree": [{"v": 1, "c": [{"v": 2, "c": []}, {"v": 3, "c": [{"v": 4, "c": []}]}]}],
    "text": "line one\nline two\n\nline four\n",
    "html": "<a href=\"x\">&'</a>",
    "big": 123456789012345678901234567890,
    "small": 1e-7,
    "nested": {"a": [1, {"b": "c", "d": None}], "e": "é\"\\\n\u0001</script>", "f": 1e22, "g": True},
    "pairs": [["x", 1], ["y", 2]],
}

# One template a string; those of a group share the context.
TEXTS = r"""
{# white space #}
a {% if t %} b {% endif %} c
===
{% if t %}
  x
{% endif %}
y
===
  {% if t %}
x
    {% endif %}  
z
===
a  {%- if t %}  b  {%- endif -%}  c
===
a
  {%+ if t %}
b{% endif %}
===
a
  {%+ if t +%}
b{% endif %}
===
a {{- s -}} b
===
a
 {{ s }}
 b
===
  {# c #}
x {#- d -#} y
{# e +#}
z
===
{% raw %}{{ x }} {% if %}{% endraw %}
===
a {%- raw -%}  {{ x }}  {%- endraw -%} b
===
{% raw %}
 x
 {% endraw %}
y
===

 lead
===
x

===
{{ '{{' }} {{ "%}" }} { { } } %} }}
===
{#- a -#}{#b#}{#
 c #}d
{# expressions #}
===
{{ 1 + 2 * 3 - 4 }} {{ 7 // 2 }} {{ -7 // 2 }} {{ 7 / 2 }} {{ 6 / 2 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }}
===
{{ 2 ** 10 }} {{ 2 ** -1 }} {{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 2.0 ** 0.5 }}
===
{{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 7.5 % -2 }} {{ 1e3 }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 1e-5 }} {{ 123456.789e3 }} {{ 5e-324 }}
===
{{ 1_000 }} {{ 0x1f }} {{ 0b101 }} {{ 0o17 }} {{ 1_0.5 }} {{ 00 }}
===
{{ big }} {{ big > 5 }} {{ big == 123456789012345678901234567890 }} {{ -9223372036854775808 }} {{ big|tojson }}
===
{{ t + 1 }} {{ t * 3 }} {{ -t }} {{ +n }} {{ not t }} {{ not not n }}
===
{{ n > 3 }} {{ 1 < n < 10 }} {{ 1 < n < 3 }} {{ n == 7.0 }} {{ t == 1 }} {{ 'a' < 'b' }} {{ [1, 2] < [1, 3] }} {{ n != 7 }}
===
{{ 'a' in 'cat' }} {{ 3 in list }} {{ 'b' in dict }} {{ 'z' not in s }} {{ 1 in range(3) }} {{ 5 in {} }} {{ 'x' in missing }}
===
{{ none_ == none }} {{ none_ is none }} {{ None }} {{ true }} {{ True }} {{ false }}
===
{{ s ~ n ~ none_ ~ t ~ f ~ list }} {{ 1 ~ 2 + 3 }}
===
{{ 'yes' if t else 'no' }} {{ 'yes' if no }}| {{ 'a' if no else 'b' if no else 'c' }}
===
{{ t and n }} {{ no or 'x' }} {{ no and x.y }} {{ t or x.y }} {{ '' or [] or 0 }}
===
{{ 'a' 'b' "c" }} {{ 'it''s' }} {{ "\n\t\\ \x41 \u00e9 \U0001F600 \101 \q \'" }}
===
{{ [1, 'a', none, 2.0, (1,), {}, {'k': [true]}] }} {{ () }} {{ (1, 2) }} {{ [] }}
===
{{ {'a': 1, 2: 'b', none: 3, (1, 2): 4, true: 5} }}
===
{{ 'it\'s' ~ ["it's", 'a"b', 'it\'s "q"', "\n\t\x00\x7fé\u200b\u00a0😀"] }}
===
{{ list[0] }} {{ list[-1] }} {{ list[5] }}| {{ dict['a'] }} {{ dict.a }} {{ s[1] }} {{ u[5] }} {{ list.0 }} {{ dict[missing] }}|
===
{{ list[1:] }} {{ list[:2] }} {{ list[::-1] }} {{ s[2:5] }} {{ s[::-1] }} {{ u[4:6] }} {{ u[-1:] }} {{ s[:-1] }} {{ list[10:] }} {{ s[5:2] }} {{ (1,2,3)[1:] }} {{ s[::2] }} {{ list[-2:] }} {{ s[none:3] }}
===
{{ "%s is %d" % ('x', 3) }} {{ "%05.2f|%-5s|%5s|%+d|%x|%X|%o|%%|%c|%r|%e|%g" % (1.5, 'a', 'b', 3, 255, 255, 8, 'z', 'q', 12345.678, 0.0001) }}
===
{{ "%(a)s-%(b)03d" % {'a': 'x', 'b': 7} }} {{ "%s" % list }} {{ "%s" % 5 }} {{ "%.3s|%*d" % ('abcdef', 4, 7) }} {{ '%s' % none_ }}
===
{{ "{} {1}".format(1, 2) if no else "{} {}".format(1, 'b') }} {{ "{0}{1}{0}".format('a', 'b') }} {{ "{a} {b[0]} {c.x} {{}}".format(a=1, b=[2], c={'x': 3}) }}
===
{{ "{:>5}|{:<5}|{:^5}|{:*^7}|{:05d}|{:+d}|{:,}|{:.2f}|{:x}|{:#x}|{:%}|{:e}|{!r}|{!s:>4}|{:5}|{:b}".format('a', 'b', 'c', 'd', 42, 3, 1234567, 3.14159, 255, 255, 0.25, 1234.5, 'q', 'r', 12, 5) }}
===
{{ {'a': 1}.a }} {{ [1, 2][0] }} {{ (1, 2)|list }} {{ 'x' is string }} {{ {'a': {'b': 'c'}}['a']['b'] }}
{# undefined #}
===
[{{ missing }}] {{ missing is defined }} {{ s is defined }} {{ dict.zzz is defined }} {{ missing|default('d') }} {{ ''|default('e', true) }} {{ none_|d('x') }} {{ missing|length }} {{ missing == missing }} {{ not missing }}
===
{{ missing.x }}
===
{{ missing + 1 }}
===
{{ missing() }}
===
{{ missing[0] }}
===
{% for x in missing %}a{% else %}none{% endfor %} {{ missing|list }} {{ missing|join }} {{ missing|map('upper')|list }} {{ missing|string }}|
===
{{ missing < 3 }}
===
{{ dict.x.y }}
===
{{ [missing] }} {{ missing ~ 'x' }} {{ missing is sequence }} {{ missing is iterable }} {{ missing is callable }} {{ missing is string }}
===
{{ 'a' + missing }}
===
{{ missing|upper }}|{{ missing|trim }}|{{ missing|replace('a', 'b') }}|
===
{{ missing|tojson }}
===
{{ missing|int }}
===
{{ '%s' % missing }}|
{# statements #}
===
{% if no %}a{% elif n == 7 %}b{% else %}c{% endif %}{% if missing %}d{% else %}e{% endif %}{% if n is divisibleby 7 and t %}f{% endif %}
===
{% for x in list %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {{ loop.previtem }}-{{ loop.nextitem }} {{ loop.cycle('o', 'e') }};{% endfor %}
===
{% for x in [1, 1, 2] %}{{ loop.changed(x) }} {{ loop.depth }}{{ loop.depth0 }} {% endfor %}
===
{% for x in empty %}a{% else %}b{% endfor %}{% for x in list %}{% else %}b{% endfor %}
===
{% for k, v in dict.items() %}{{ k }}={{ v }},{% endfor %}{% for k in dict %}{{ k }}{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}{% for c in 'añb' %}{{ c }}.{% endfor %}
===
{% for x in list if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ loop.last }} {% else %}none{% endfor %}{% for x in list if x > 9 %}{% else %}none{% endfor %}
===
{% for x in range(10) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 5 %}{% break %}{% endif %}{{ x }}{% endfor %}
===
{% for x in tree recursive %}{{ loop.depth }}:{{ x.v }}{% if x.c %}({{ loop(x.c) }}){% endif %}{% if not loop.last %},{% endif %}{% endfor %}
===
{% for x in list %}{% for y in list %}{{ loop.index }}{{ x }}{{ y }} {% endfor %}{{ loop.index }}|{% endfor %}
===
{% set x = 1 %}{% for i in list %}{% set x = i %}{{ x }}{% endfor %}{{ x }}
===
{% set x, y = 1, 2 %}{{ x }}{{ y }}{% set (x, y) = (y, x) %}{{ x }}{{ y }}{% set z = 1, %}{{ z }}
===
{% set ns = namespace(a=1, found=false) %}{% for i in list %}{% set ns.a = ns.a + i %}{% set ns.found = true %}{% endfor %}{{ ns.a }}{{ ns.found }}{{ ns.b is defined }}{{ ns.b }}
===
{% set ns = namespace({'q': 1}, r=2) %}{{ ns.q }}{{ ns.r }}{{ ns['q'] }}{% set ns.x, y = 3, 4 %}{{ ns.x }}{{ y }}
===
{% set x %}a{{ n }}b{% endset %}{{ x }}{{ x|length }}{% set y | upper | replace('A', 'z') %}abc{% endset %}{{ y }}
===
{% set x = 1 %}{% if t %}{% set x = 2 %}{% endif %}{{ x }}{% with x = 3, y = x %}{{ x }}{{ y }}{% set x = 4 %}{% endwith %}{{ x }}
===
{% macro m(a, b=2, c=a) %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}{{ m() }}{{ m(1, c=9)|upper }}{{ m }}
===
{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}{{ m(*[1, 2], **{'k': 'v'}) }}
===
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
===
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}
===
{% macro m(t) %}<{{ caller(t) }}>{% endmacro %}{% call(x) m('q') %}{{ x }}{{ n }}{% endcall %}
===
{% macro m() %}{{ caller is defined }}{{ caller() }}{% endmacro %}{{ m() }}
===
{% macro fact(n) %}{% if n < 2 %}1{% else %}{{ n * (fact(n - 1)|int) }}{% endif %}{% endmacro %}{{ fact(10) }}
===
{% macro a() %}{{ x }}{% endmacro %}{% set x = 5 %}{{ a() }}{% set x = 6 %}{{ a() }}
===
{% macro a() %}[{{ s }}]{% endmacro %}{{ a() }}{% set s = 6 %}{{ a() }}
===
{% for i in list %}{{ s }}{% endfor %}{% set s = 1 %}{{ s }}
===
{% for i in list %}[{{ n }}]{% set n = i %}[{{ n }}]{% endfor %}{{ n }}
===
{% macro a() %}{% for i in list %}{{ n }}{% endfor %}{% set n = 1 %}{% endmacro %}{{ a() }}{{ n }}
===
{% filter upper %}abc {{ s }}{% endfilter %}{% filter replace('a', 'b')|upper %}aa{% endfilter %}
===
{% generation %}a{{ s }}{% endgeneration %}{% set q = 1 %}{% generation %}{% set q = 2 %}{{ q }}{% endgeneration %}{{ q }}
===
{% print s, n %}
===
{%- set x = [] -%}{%- for i in list -%}{%- set x = x + [i] -%}{%- endfor -%}{{ x }}
===
{% for i in list %}{% macro m() %}{{ i }}{% endmacro %}{{ m() }}{% endfor %}
===
{% set f = joiner('; ') %}{% for i in list %}{{ f() }}{{ i }}{% endfor %}
===
{% for x in list|select('odd') %}{{ x }}{{ loop.last }}{{ loop.length }} {% endfor %}
===
{% set it = list|map('string') %}{{ it|join }}|{{ it|join }}
===
{% set ns = namespace(go=true) %}{% for x in range(5) if ns.go %}{{ x }}{% if x == 2 %}{% set ns.go = false %}{% endif %}{% endfor %}
===
{% for x in range(3) %}{% set v %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endset %}{{ v }};{% endfor %}
{# filters #}
===
{{ s|upper }} {{ s|lower }} {{ u|upper }} {{ 'straße İ ΑΣ'|lower }} {{ 'straße'|upper }} {{ 'hELLO wORLD'|capitalize }} {{ 'hello-world (foo) bar\'s'|title }}
===
[{{ '  a b  '|trim }}] [{{ 'xxaxx'|trim('x') }}] {{ s|replace('l', 'L') }} {{ s|replace('l', 'L', 1) }} {{ 5|replace(5, 6) }} {{ 'aaa'|replace('', '-') }}
===
{{ list|length }} {{ s|count }} {{ dict|length }} {{ u|length }} {{ list|first }} {{ list|last }} {{ empty|first }}| {{ s|first }} {{ dict|last }}
===
{{ list|join(', ') }} {{ users|join('+', attribute='name') }} {{ 'abc'|join('.') }} {{ [1, none, true]|join('|') }} {{ dict|join }}
===
{{ list|sort }} {{ words|sort }} {{ words|sort(true) }} {{ words|sort(case_sensitive=true) }} {{ users|sort(attribute='age,name')|map(attribute='name')|list }} {{ users|sort(attribute='address.city')|map(attribute='name')|join }}
===
{{ dict|dictsort }} {{ dict|dictsort(true) }} {{ dict|dictsort(by='value', reverse=true) }} {{ dict|dictsort(false, 'value') }}
===
{{ words|unique|list }} {{ [1, 1.0, true, 2]|unique|list }} {{ users|unique(attribute='age')|map(attribute='name')|list }}
===
{{ users|map(attribute='name')|list }} {{ users|map(attribute='admin', default='?')|list }} {{ words|map('upper')|join }} {{ users|map(attribute='address.city')|list }} {{ pairs|map(attribute=0)|list }} {{ words|map('replace', 'p', 'P')|list }}
===
{{ list|select('>', 1)|list }} {{ list|reject('odd')|list }} {{ users|selectattr('admin')|map(attribute='name')|list }} {{ users|rejectattr('admin')|map(attribute='name')|list }} {{ users|selectattr('age', 'eq', 30)|list|length }} {{ users|selectattr('admin', 'defined')|list|length }} {{ [0, 1, '', 'a']|select|list }}
===
{% for g, l in users|groupby('age') %}{{ g }}:{{ l|map(attribute='name')|join }} {% endfor %}{% for g in users|groupby('address.city') %}{{ g.grouper }}={{ g.list|length }} {% endfor %}{{ users|groupby('admin', default='x')|length if no }}{{ users|groupby('age')|first }}
===
{{ list|sum }} {{ users|sum(attribute='age') }} {{ list|sum(start=10) }} {{ list|min }} {{ list|max }} {{ words|max }} {{ users|max(attribute='age') }} {{ empty|min }}|
===
{{ list|reverse|list }} {{ s|reverse }} {{ dict|reverse|list }} {{ list|batch(2)|list }} {{ list|batch(2, 'x')|list }} {{ list|slice(2)|list }} {{ range(7)|slice(3, 0)|list }}
===
{{ '42'|int }} {{ '4.9'|int }} {{ 'x'|int }} {{ 'x'|int(5) }} {{ ' 7 '|int }} {{ '0x1f'|int(base=16) }} {{ '1_000'|int }} {{ 3.9|int }} {{ none_|int }} {{ t|int }} {{ '-5'|int }} {{ '11'|int(0, 2) }}
===
{{ '4.5'|float }} {{ 'x'|float }} {{ 3|float }} {{ '1e3'|float }} {{ 'inf'|float }} {{ 'nan'|float }} {{ none_|float(1.5) }}
===
{{ 2.5|round }} {{ 3.5|round }} {{ 2.675|round(2) }} {{ 7|round }} {{ 2.1|round(0, 'ceil') }} {{ 2.19|round(1, 'floor') }} {{ -3|abs }} {{ -2.5|abs }} {{ 1234.5678|round(3) }} {{ 2.5|round(none) }}
===
{{ text|indent }}| {{ text|indent(2, true) }}| {{ text|indent('> ', true, true) }}| {{ 'a'|indent }}|{{ ''|indent(2, true) }}|
===
{{ nested|tojson }} {{ nested|tojson(indent=2) }} {{ nested|tojson(true) }} {{ dict|tojson(sort_keys=true) }} {{ dict|tojson(separators=(',', ':')) }} {{ [[], {}, [1]]|tojson(indent=4) }} {{ [1,[2]]|tojson(indent='\t') }} {{ {1: 2, none: 3, true: 4, 1.5: 5}|tojson }}
===
{{ [1.0, 1e100, 0.1, -0.0, 1e22, 1e21, 123456789.123]|tojson }} {{ 'é😀\u2028\x7f'|tojson }} {{ 'é😀\x7f'|tojson(ensure_ascii=true) }} {{ (1, 2)|tojson }} {{ none|tojson }} {{ html|tojson }} {{ [1, 2]|tojson(indent=0) }}
===
{{ html|e }} {{ html|escape|e }} {{ html|safe }} {{ html|safe + '<' }} {{ '<' + html|safe }} {{ (html|safe) ~ '<' }} {{ html|safe|upper }} {{ html|forceescape }} {{ html|safe is escaped }} {{ ['<', html|safe]|join('&') }} {{ [html|safe] }}
===
{{ 'foo bar baz qux'|truncate(9) }} {{ 'foo bar baz qux'|truncate(9, true) }} {{ 'foo bar baz qux'|truncate(11) }} {{ 'foo bar baz qux'|truncate(11, false, '..', 0) }} {{ 'ab'|center(7) }}| {{ 'a b_c d'|wordcount }} {{ 1500|filesizeformat }} {{ 1|filesizeformat }} {{ 2048|filesizeformat(true) }} {{ 500|filesizeformat }}
===
{{ '%s-%s'|format(1, 'a') }} {{ '%(x)s'|format(x=2) }} {{ dict|attr('a') }}| {{ dict|items|list }} {{ missing|items|list }} {{ dict|list }} {{ 'ab'|list }} {{ 5|string }} {{ list|string }}
===
{{ [3, 'a']|sort }}
===
{{ 5|length }}
===
{{ none_|length }}
===
{{ list|map('upper')|length }}
===
{{ list|last|first }}
===
{{ s|nofilter }}
===
{% if no %}{{ s|nofilter }}{% endif %}ok{{ 'x' if t else s|nofilter }}
===
{% if t %}{{ s|nofilter }}{% endif %}
===
{{ s is notest }}
===
{{ list|first|nofilter if no else 'fine' }}
{# tests #}
===
{{ 3 is odd }} {{ 3 is even }} {{ 9 is divisibleby(3) }} {{ s is string }} {{ n is number }} {{ n is integer }} {{ f is float }} {{ t is boolean }} {{ t is number }} {{ t is integer }} {{ dict is mapping }} {{ list is sequence }} {{ s is sequence }} {{ dict is sequence }} {{ n is sequence }} {{ n is iterable }} {{ list is iterable }} {{ none_ is none }} {{ t is true }} {{ no is false }} {{ 1 is true }}
===
{{ 'abc' is lower }} {{ 'ABC' is upper }} {{ 'Abc' is lower }} {{ n is eq 7 }} {{ n is equalto 7 }} {{ n is ne 7 }} {{ n is lt 8 }} {{ n is gt 8 }} {{ n is ge 7 }} {{ n is le 6 }} {{ n is in [7] }} {{ n is not in [7] }} {{ none is sameas none }} {{ list is sameas list }} {{ [1] is sameas [1] }} {{ 'upper' is filter }} {{ 'zzz' is filter }} {{ 'odd' is test }} {{ raise_exception is callable }} {{ s is callable }} {{ s is escaped }}
===
{{ s is not string }} {{ s is string and n is number }} {{ not s is string }} {{ s is defined or x }} {{ n is greaterthan 3 }} {{ range(3) is sequence }} {{ dict.items() is sequence }} {{ dict.keys() is iterable }} {{ list|map('string') is sequence }}
{# methods #}
===
{{ s.upper() }} {{ s.lower() }} {{ s.title() }} {{ 'aB'.swapcase() }} {{ 'ab'.capitalize() }} {{ ' a '.strip() }}| {{ ' a '.lstrip() }}| {{ ' a '.rstrip() }}| {{ 'xxay'.strip('xy') }} {{ 'they\'re x2b'.title() }} {{ 'ß'.casefold() }}
===
{{ 'a,b,,c'.split(',') }} {{ ' a  b '.split() }} {{ 'a b c'.split(' ', 1) }} {{ 'a b c '.split(none, 1) }} {{ ' a b c'.rsplit(none, 1) }} {{ 'a.b.c'.rsplit('.', 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ 'a\nb\r\nc'.splitlines() }} {{ 'a\nb'.splitlines(true) }} {{ 'aXXb'.split('XX') }} {{ 'a b c'.split(maxsplit=1) }} {{ 'k=v=w'.partition('=') }} {{ 'k=v=w'.rpartition('=') }} {{ 'k'.partition('=') }} {{ 'k'.rpartition('=') }}
===
{{ s.startswith('He') }} {{ s.endswith('ld') }} {{ s.startswith(('x', 'H')) }} {{ s.startswith('l', 2) }} {{ s.find('o') }} {{ s.rfind('o') }} {{ s.find('z') }} {{ u.find('日') }} {{ s.index('W') }} {{ s.count('l') }} {{ 'aaa'.count('aa') }} {{ 'abc'.count('') }} {{ s.replace('l', 'L') }} {{ s.replace('l', 'L', 2) }} {{ ', '.join(words) }} {{ 'a'.join('xyz') }} {{ s.removeprefix('Hello') }} {{ s.removesuffix('World') }} {{ s.find('o', 5) }} {{ s.find('o', -5, -1) }}
===
{{ '12'.isdigit() }} {{ 'a1'.isalnum() }} {{ 'ab'.isalpha() }} {{ ' '.isspace() }} {{ ''.isspace() }} {{ 'ab'.islower() }} {{ 'AB'.isupper() }} {{ '²'.isdigit() }} {{ '²'.isdecimal() }} {{ '½'.isnumeric() }} {{ 'a_1'.isidentifier() }} {{ 'é'.isascii() }} {{ '5'.zfill(3) }} {{ '-5'.zfill(4) }} {{ 'a'.ljust(3, '.') }} {{ 'a'.rjust(3) }} {{ 'ab'.center(5, '*') }} {{ 'a\tb'.expandtabs(4) }}
===
{{ dict.get('a') }} {{ dict.get('z') }} {{ dict.get('z', 5) }} {{ dict.keys()|list }} {{ dict.values()|list }} {{ dict.items()|list }} {{ dict.copy() }} {{ items.items is string }} {{ items['items'] }} {{ items.keys()|list }} {{ dict.get(key='a') if no }} {{ list.index(1) }} {{ list.count(3) }} {{ (1, 2).index(2) }} {{ list.copy() }} {{ dict.items()|length }} {{ 'a' in dict.keys() }}
===
{{ list.append(4) }}
===
{{ list.append is defined }} {{ list.append }}| {{ dict.update is defined }} {{ list.__class__ }}| {{ list.__class__ is defined }} {{ s.__len__ is defined }}
===
{{ dict.pop('a') }}
===
{{ dict.setdefault('q', 1) }}
===
{{ list.__class__() }}
===
{{ s.nomethod() }}
===
{{ s.nomethod is defined }} {{ n.x is defined }} {{ list.x }}|{{ dict['update'] is defined }}{{ dict['get']('a') }}
===
{{ (2.0).is_integer() }} {{ f.is_integer() }}
===
{{ s.index('z') }}
===
{{ ''.join([1, 2]) }}
===
{{ 'x'.split('') }}
{# functions #}
===
{{ range(3)|list }} {{ range(1, 4)|list }} {{ range(5, 0, -2)|list }} {{ range(3)|length }} {{ range(10)[3] }} {{ dict(a=1, b=2) if false }} {{ range(3)|sum }}
===
{{ range(3) }} {{ range(1, 9, 2) }} {{ dict.keys() }} {{ dict.values() }} {{ dict.items() }} {{ [dict.items()] }} {{ missing|reverse|list }} {{ missing|last }}|
===
{{ range(100001) }}
===
{{ raise_exception('Stop: ' ~ n) }}
===
{% if no %}{{ raise_exception('x') }}{% endif %}fine
===
{{ strftime_now('%d %b %Y %H:%M:%S %A %j %%') }}
===
{{ namespace(_a=1) }}
===
{% set ns = namespace() %}{% set ns._x = 1 %}
===
{% set ns = {} %}{% set ns.x = 1 %}
===
{{ s() }}
===
{{ n.x.y }}
===
{{ 1 / 0 }}
===
{{ 'a' + 1 }}
===
{{ 'a' * 3 }} {{ 2 * [1] }} {{ 'a' * -1 }}| {{ [1] + [2] }} {{ (1,) + (2,) }}
===
{{ none_ + 1 }}
===
{{ {} + {} }}
===
{{ 1 in 5 }}
===
{{ 1 in 'a' }}
===
{{ [1] < 1 }}
===
{{ {[1]: 2} }}
===
{% set a, b = [1] %}
===
{% set a, b = [1, 2, 3] %}
===
{% for a, b in [[1, 2, 3]] %}{% endfor %}
===
{% for x in 5 %}{% endfor %}
===
{{ list[1:2:0] }}
===
{{ n[1:] }}
===
{{ list['a'] }}|{{ list[1.5] }}|{{ s['upper']() }}
===
{% set x = range(3) %}{{ x|list }}{{ x|list }}{% set y = dict.items() %}{{ y|list }}{{ y|list }}
===
{{ words|map('length')|list }} {{ [[1, 2], [3]]|map('sum')|list }} {{ [[3, 1], [2]]|map('sort')|map('first')|list }} {{ users|map('tojson')|first }}
{# syntax errors #}
===
{% if t %}
===
{% endif %}
===
{{ }}
===
{{ 1 + }}
===
{{ (1 }}
===
{{ 1) }}
===
{{ 'a }}
===
{% for x list %}{% endfor %}
===
{% for loop in list %}{% endfor %}
===
{% foo %}
===
{% set 1 = 2 %}
===
{% set true = 2 %}
===
{% break %}
===
{# open
===
{% raw %}
===
{{ a b }}
===
{{ a is }}
===
{{ a | }}
===
{{ f(a=1, 2) }}
===
{{ f(a=1, a=2) }}
===
{{ ! }}
===
{% macro m(a=1, b) %}{% endmacro %}
===
{% macro m(a, a) %}{% endmacro %}
===
{% call s %}{% endcall %}
===
{{ "\x4" }}
===
{{ a is defined is defined }}
===
{% else %}
===
{% if t %}{% else %}{% elif n %}{% endif %}
===
{{ {1: 2, 3} }}
===
{{ [1 2] }}
===
{% if t: %}colon{% endif %}
===
{% include 'x' %}
"""

MORE = [
    ("a\r\nb\r{{ s }}\r\n", CONTEXT),
    ("a\n\n", CONTEXT),
    ("", CONTEXT),
    ("\n", CONTEXT),
    ("{% if t %}\r\nx\r\n{% endif %}\r\n", CONTEXT),
    ("{{ 'a\r\nb' }}", CONTEXT),
    ("{{ a.b.c }}", {"a": {"b": {"c": "deep"}}}),
    ("{{ é }} {{ 变 }}", {"é": 1, "变": 2}),
    ("{{ self_ }}{{ range }}", {"self_": 1, "range": 2}),
    ("\u00a0{%- if x %}\u2003a{% endif -%}\u2028 b", {"x": 1}),
    ("{{ x }}", {"x": "\u0000\ufeff"}),
    ("{{ [1e400, -1e400, 1e400 - 1e400]|tojson }} {{ [1e400, -1e400, 1e400 - 1e400] }}", CONTEXT),
    ("{#", CONTEXT),
    ("{{ -x }} {{ -y }} {{ +x }} {{ -x == y }} {{ x > y }} {{ x|int }} {{ x is integer }} {{ x|float }}", {"x": 10**30, "y": -10**30}),
    ("{{ x|tojson }}", {"x": {"é": 1, "b\"": [None, False]}}),
    ("{% for m in x %}{{ m['role'] + ': ' + m.content }}{% if not loop.last %}\n{% endif %}{% endfor %}",
     {"x": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]}),
    ("{{ x == y }} {{ x < y }} {{ y > z }}", {"x": 2**53, "y": float(2**53), "z": 2**53 + 1}),
    ("{{ x|sort }} {{ y|sort }}", {"x": [2.5, 1, True], "y": ["b", "B", "a", "A"]}),
    ("{{ x|dictsort }}", {"x": {f"k{i:02}": i for i in range(30, 0, -1)}}),
    ("{{ x['k7'] }}{{ x|length }}{{ 'k19' in x }}{{ 'k20' in x }}", {"x": {f"k{i}": i for i in range(20)}}),
]


def main():
    cases = []
    for text in TEXTS[1:-1].split("\n===\n"):
        cases.append((text, None))
    cases += MORE
    out = []
    for template, context in cases:
        kind, text = by_jinja(template, CONTEXT if context is None else context)
        case = {"template": template}
        if context is not None and context is not CONTEXT:
            case["context"] = context
        case["text" if kind == "text" else "error"] = text
        out.append(case)
    lines = ",\n".join(json.dumps(c, ensure_ascii=False) for c in out)
    context = json.dumps(CONTEXT, ensure_ascii=False)
    (HERE / "templates.json").write_text(f'{{"context": {context},\n"cases": [\n{lines}\n]}}\n')
    print(f"{len(out)} cases, {sum('error' in c for c in out)} of them errors")


if __name__ == "__main__":
    main()
