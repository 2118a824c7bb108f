// Building blocks: elements (text is only ever set as text, never parsed as HTML) and formats.

const byId = (id) => document.getElementById(id);

/** An element. Properties are set as such, `class` and `aria-*`-like names as attributes; children are nodes or text. */
function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "class") node.className = value;
    else if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && !name.includes("-")) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;
const whole = (value) => Math.round(value).toLocaleString("en");

/** A number with about three digits that count. */
function short(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 100) return whole(value);
  const digits = size >= 10 ? 1 : size >= 1 ? 2 : size >= 0.001 ? 3 : 6;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

const mppText = (value) =>
  value === null || value === undefined ? "–" : value.toLocaleString("en", { maximumFractionDigits: 4 });

function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.01) return "< 0.01 s";
  if (seconds < 10) return `${seconds.toLocaleString("en", { maximumFractionDigits: seconds < 1 ? 2 : 1 })} s`;
  if (seconds < 100) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 100 ? `${minutes} min` : `${(seconds / 3600).toLocaleString("en", { maximumFractionDigits: 1 })} h`;
}

/** Date and time of day, as written by the machine that ran (UTC), without fractions of a second. */
const moment = (iso) =>
  iso ? iso.replace("T", " ").replace(/\.\d+/, "").replace(/(\+00:00|Z)$/, " UTC") : "–";

/** The picture with this id as a data URI; its element is decoded only now. */
function pictureSource(id) {
  const holder = id ? byId(`p-${id}`) : null;
  return holder ? `data:image/webp;base64,${holder.textContent}` : null;
}

const percent = (part, all) => (all > 0 ? `${Math.round((100 * part) / all)} %` : "–");
