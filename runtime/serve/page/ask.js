"use strict";
/* ask: requests to the server. Addresses are relative, so that the page works behind a path, too. */

class AskError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

function ask_headers() {
  const key = settings.key();
  return key ? { Authorization: "Bearer " + key } : {};
}

async function ask_refusal(response) {
  let message = response.status + " " + response.statusText;
  try {
    const body = await response.json();
    message = (body.error && (body.error.message || body.error)) || message;
  } catch (e) { /* then the status is all there is */ }
  return new AskError(response.status, String(message));
}

async function ask_json(path) {
  const response = await fetch(path, { headers: ask_headers(), cache: "no-store", signal: AbortSignal.timeout(20000) });
  if (!response.ok) {
    throw await ask_refusal(response);
  }
  return response.json();
}

/* The body of a request for the next turn of a conversation. */
function ask_body(messages) {
  const body = { model: server.name || "corm", messages, stream: true, stream_options: { include_usage: true } };
  const system = settings.get("system").trim();
  if (system) {
    body.messages = [{ role: "system", content: system }, ...messages];
  }
  for (const name of ["temperature", "top_p", "top_k", "min_p", "max_tokens", "seed"]) {
    const value = settings.get(name);
    if (value !== "" && Number.isFinite(Number(value))) {
      body[name] = Number(value);
    }
  }
  if (settings.get("thinking")) {
    body.chat_template_kwargs = { enable_thinking: settings.get("thinking") === "on" };
  }
  return body;
}

/* Asks for the next turn and calls `on` (text, thought, usage) with what comes. Returns the reason why it
 * ended. */
async function ask_turn(messages, signal, on) {
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: { "Content-Type": "application/json", ...ask_headers() },
    body: JSON.stringify(ask_body(messages)),
    signal,
  });
  if (!response.ok) {
    throw await ask_refusal(response);
  }
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "", finish = null, whole = false;
  const take = (line) => {
    if (!line.startsWith("data:")) {
      return;
    }
    const data = line.slice(5).trim();
    if (data === "[DONE]") {
      whole = true;
      return;
    }
    const event = JSON.parse(data);
    if (event.error) {
      throw new AskError(0, String(event.error.message || event.error));
    }
    const choice = event.choices && event.choices[0];
    if (choice && choice.delta) {
      if (choice.delta.reasoning_content) {
        on.thought(choice.delta.reasoning_content);
      }
      if (choice.delta.content) {
        on.text(choice.delta.content);
      }
      finish = choice.finish_reason || finish;
    }
    if (event.usage) {
      on.usage(event.usage, event.timings || {});
    }
  };
  for (;;) {
    const { done, value } = await reader.read();
    rest += done ? decoder.decode() : decoder.decode(value, { stream: true });
    const lines = rest.split("\n");
    rest = lines.pop();
    lines.forEach(take);
    if (done) {
      break;
    }
  }
  if (!whole) {
    throw new AskError(0, "the connection ended before the answer did");
  }
  return finish || "stop";
}

/* What the server is: filled by server_look. */
const server = { name: "", props: null, reached: false };

async function server_look() {
  try {
    server.props = await ask_json("props");
    server.name = server.props.model_alias;
    server.reached = true;
    return null;
  } catch (e) {
    server.reached = false;
    return e;
  }
}
