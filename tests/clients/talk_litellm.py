"""Asks corm-serve at the given port through litellm, as if it were OpenAI, Anthropic and Ollama."""

import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # no list of prices from elsewhere

import litellm

base = f"http://127.0.0.1:{sys.argv[1]}"
HI = [{"role": "user", "content": "Hi"}]
# Of Anthropic's, it gives a temperature only to models that it knows.
ends = {"openai/fable": base + "/v1", "anthropic/claude-3-haiku-20240307": base, "ollama_chat/fable": base}
texts = {}
for model, url in ends.items():
    # To Ollama it sends JSON without saying so.
    where = {"model": model, "api_base": url, "api_key": "none", "extra_headers": {"Content-Type": "application/json"}}
    whole = litellm.completion(**where, messages=HI, max_tokens=10, temperature=0)
    texts[model] = whole.choices[0].message.content
    assert texts[model] and whole.usage.completion_tokens == 10, whole
    parts = [c.choices[0].delta.content or "" for c in litellm.completion(**where, messages=HI, max_tokens=10, temperature=0,
                                                                    stream=True)]
    assert "".join(parts) == texts[model] and len(parts) > 2, parts
    try:
        litellm.completion(**where, messages=[{"role": "user", "content": "word " * 3000}], max_tokens=5)
        raise AssertionError("a prompt that is too long")
    except litellm.exceptions.ContextWindowExceededError as e:
        assert "1024" in str(e), e
    except litellm.exceptions.BadRequestError as e:  # it does not look what an error of Ollama's says
        assert model.startswith("ollama") and "maximum context length is 1024" in str(e), e
    print("ok litellm:", model, flush=True)
assert len(set(texts.values())) == 1, texts
text = litellm.text_completion(model="text-completion-openai/fable", api_base=base + "/v1", api_key="none",
                               prompt="Once upon a time", max_tokens=5, temperature=0)
assert text.choices[0].text, text
print("ok litellm: a text", flush=True)
