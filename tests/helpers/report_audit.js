// A small audit of accessibility; returns what is wrong. Contrast is that of WCAG, of text on the nearest opaque ground.
const parse = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) => 0.2126 * linear(r / 255) + 0.7152 * linear(g / 255) + 0.0722 * linear(b / 255);
function ground(element) {
  for (let e = element; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
}
const wrong = [];
const seen = (e) => e.getClientRects().length > 0;
for (const e of document.querySelectorAll("body *")) {
  const own = [...e.childNodes].some((n) => n.nodeType === Node.TEXT_NODE && n.textContent.trim());
  if (!own || !seen(e) || e.closest("script, style, noscript")) continue;
  const style = getComputedStyle(e);
  const ink = parse(e.namespaceURI.includes("svg") ? style.fill : style.color);
  const [more, less] = [light(ink), light(ground(e))].sort((x, y) => y - x);
  if ((more + 0.05) / (less + 0.05) < 4.5) wrong.push(["contrast", e.tagName, e.textContent.slice(0, 40), ink, ground(e)]);
}
const labels = (e) => [...(e.labels || [])].map((label) => label.textContent).join(" ");
for (const e of document.querySelectorAll("button, select, input, a, [role=button], summary, [tabindex='0']"))
  if (!(e.getAttribute("aria-label") || labels(e) || e.textContent).trim()) wrong.push(["name", e.outerHTML.slice(0, 80)]);
for (const e of document.querySelectorAll("img"))
  if (!e.alt || !e.complete || !e.naturalWidth) wrong.push(["image", e.alt.slice(0, 40)]);
const levels = [...document.querySelectorAll("h1, h2, h3, h4")].filter(seen).map((h) => Number(h.tagName[1]));
levels.forEach((level, i) => {
  if (i && level - levels[i - 1] > 1) wrong.push(["heading", i, level]);
});
const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
for (const id of ids.filter((x, i) => ids.indexOf(x) !== i)) wrong.push(["id", id]);
for (const e of document.querySelectorAll("th:not([scope]), table:not(:has(caption))")) wrong.push(["table", e.textContent.slice(0, 40)]);
return wrong;
