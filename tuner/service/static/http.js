// Requests to the API, with its problem documents as errors that people can read.

export async function call(method, path, body) {
  let reply;
  try {
    reply = await fetch(path, {
      method,
      headers: body === undefined ? {} : { "Content-Type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Error("the server does not answer");
  }
  const answer = await reply.json().catch(() => ({}));
  if (!reply.ok) throw new Error(answer.detail || `the server answered ${reply.status}`);
  return answer;
}

export function microseconds(us) {
  if (us === null || us === undefined) return "-";
  const [value, unit] = us < 1e3 ? [us, "us"] : us < 1e6 ? [us / 1e3, "ms"] : [us / 1e6, "s"];
  return `${Number(value.toPrecision(3))} ${unit}`;
}

// An element with text and children; never built from HTML text.
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

export function stateBadge(state) {
  return make("span", { className: `state ${state.toLowerCase()}`, textContent: state });
}

export function configBadges(config) {
  const text = (v) => (Array.isArray(v) ? `(${v.join(", ")})` : `${v}`); // JSON has no tuples
  const pairs = Object.entries(config).map(([k, v]) => make("span", {}, make("b", { textContent: k }), ` ${text(v)}`));
  return make("span", { className: "config" }, ...pairs);
}
