"use strict";
// The tokens of an answer as buttons. The chosen one says why it was chosen, and paints where the model looked.
const sightline = {};
sightline.element = (name, properties = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key.includes("-") || key === "role" || key === "scope") made.setAttribute(key, value);
    else made[key] = value;
  }
  made.append(...children.filter((child) => child !== null && child !== ""));
  return made;
};
sightline.percent = (value) => {
  const percent = 100 * value;
  if (percent > 0 && percent < 0.1) return "<0.1\u00a0%";
  return `${percent > 0 && percent < 9.95 ? percent.toFixed(1) : percent.toFixed(0)}\u00a0%`;
};
sightline.quoted = (text) => sightline.element("bdi", {}, `\u201c${text}\u201d`);
sightline.levels = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
sightline.mean = (trace) => {
  const maps = trace.s.filter((step) => step[9]).map((step) => sightline.levels(step[9]));
  if (!maps.length) return null;
  const sums = maps[0].reduce((found, _, place) => [...found, maps.reduce((sum, map) => sum + map[place], 0)], []);
  const [low, high] = [Math.min(...sums), Math.max(...sums)];
  return Uint8Array.from(sums, (sum) => (high > low ? ((sum - low) / (high - low)) * 255 : 255));
};
// Darken the image of a stage where levels are low; without levels, nothing.
sightline.paint = (stage, grid, levels) => {
  stage.querySelector("canvas")?.remove();
  if (!grid || !levels) return;
  const [rows, columns, left, top, width, height] = grid;
  const canvas = sightline.element("canvas", { width: columns, height: rows, "aria-hidden": "true" });
  const pixels = new ImageData(columns, rows);
  levels.forEach((level, place) => pixels.data.set([0, 0, 0, (255 - level) * 0.8], 4 * place));
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  Object.assign(canvas.style, {
    left: `${100 * left}%`, top: `${100 * top}%`, width: `${100 * width}%`, height: `${100 * height}%`,
  });
  stage.append(canvas);
};
sightline.odds = (trace, step) => {
  const { element, percent, quoted } = sightline;
  const names = ["base", ...trace.b.slice(0, step[2].length), "decoded"];
  const row = (head, values) =>
    element("tr", {}, element("th", { scope: "row" }, head), ...values.map((value, place) => {
      const inner = element("i");
      inner.style.width = `${100 * value}%`;
      const bar = element("span", { class: place === values.length - 1 ? "bar last" : "bar", "aria-hidden": "true" }, inner);
      return element("td", {}, percent(value), bar);
    }));
  const heads = element("tr", {}, element("td"), ...names.map((name) => element("th", { scope: "col" }, name)));
  const rows = [row(quoted(step[0]), [step[1], ...step[2], step[3]])];
  if (step[6]) rows.push(row(quoted(step[6][0]), [step[6][1], ...step[6][2], step[6][3]]));
  return element("table", { class: "odds" }, element("thead", {}, heads), element("tbody", {}, ...rows));
};
sightline.sentence = (trace, step) => {
  const { element, percent, quoted } = sightline;
  const against = (name, mine, theirs) => `${name} ${percent(mine)} against ${percent(theirs)}`;
  const other = step[6];
  const parts = [against("base", step[1], other[1])];
  step[2].forEach((value, place) => parts.push(against(trace.b[place] ?? "branch", value, other[2][place])));
  parts.push(against("decoded from", step[3], other[3]));
  return element("span", {}, quoted(step[0]), " instead of ", quoted(other[0]), `: ${parts.join(", ")}.`);
};
// trace: as sightline writes it; stage: what holds the image, or null; looked: where words on attention go, or null.
sightline.view = (trace, name, stage, looked) => {
  const { element, percent, quoted } = sightline;
  const why = element("div", { class: "why", "aria-live": "polite" });
  const say = (text) => { if (looked) looked.replaceChildren(text); };
  const whole = () => {
    const changed = trace.s.filter((step) => step[6]);
    const words = changed.length
      ? [element("p", {}, `${changed.length} of ${trace.s.length} tokens are not the base\u2019s likeliest. Choose a token to see more.`),
         element("ul", {}, ...changed.map((step) => element("li", {}, sightline.sentence(trace, step))))]
      : [element("p", {}, "Every token is the base\u2019s likeliest. Choose a token to see more.")];
    why.replaceChildren(...words);
    if (!stage) return;
    const levels = sightline.mean(trace);
    sightline.paint(stage, trace.g, levels);
    say(levels && trace.g ? `Where ${name} looked, mean over all tokens.` : "");
  };
  const one = (step) => {
    const side = [`${step[5].toLocaleString("en")} ${step[5] === 1 ? "token" : "tokens"} left by the cut`, `entropy of the base ${step[4].toFixed(2)} nats`];
    if (step[7] !== null) side.push(step[7] ? "gate open" : "gate shut");
    if (step[8] !== null) side.push(`${percent(step[8])} of attention on the image`);
    why.replaceChildren(sightline.odds(trace, step), element("p", { class: "side" }, `${side.join(", ")}.`));
    if (!stage) return;
    sightline.paint(stage, trace.g, step[9] ? sightline.levels(step[9]) : null);
    say(step[9] ? element("span", {}, `Where ${name} looked when it chose `, quoted(step[0].trim()), `: ${percent(step[8])} on the image.`) : "");
  };
  const buttons = trace.s.map((step, place) => {
    const kinds = [step[6] ? "changed" : "", /^<.*>$|^\[.*\]$/.test(step[0]) ? "end" : ""].join(" ").trim();
    const button = element("button", { type: "button", tabIndex: place ? -1 : 0, class: kinds, "aria-pressed": "false" },
      element("bdi", {}, step[0] || "\u00b7"));
    button.addEventListener("click", () => {
      const off = button.getAttribute("aria-pressed") === "true";
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button && !off));
      if (off) whole(); else one(step);
    });
    button.addEventListener("keydown", (event) => {
      const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      const next = move && buttons[place + move];
      if (!next) return;
      event.preventDefault();
      button.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    });
    return button;
  });
  whole();
  const label = `Tokens of ${name}; arrow keys move between them`;
  return element("div", { class: "trace" }, element("div", { class: "tokens", role: "group", "aria-label": label }, ...buttons), why);
};
