{
  const { element, quoted } = sightline;
  const $ = (id) => document.getElementById(id);
  const CHUNK = 24;
  const LONG = 600;
  const PRINTED = 240; // cards on paper, some 80 pages
  const images = JSON.parse($("images").textContent);
  const sections = new Map();
  const load = (place) => {
    if (!sections.has(place)) sections.set(place, JSON.parse($(`section-${place}`).textContent));
    return sections.get(place);
  };
  const KINDS = {
    all: ["all", () => true],
    fixed: ["fixed", (base, own) => base === 0 && own === 1],
    broken: ["broken", (base, own) => base === 1 && own === 0],
    wrong: ["still wrong", (base, own) => base === 0 && own === 0],
    changed: ["other words", (base, own, same) => !same],
  };
  const state = { section: null, decoder: 0, kind: "all", shown: new Set(), found: [], made: 0 };
  const plain = (text) => (typeof text === "string" ? text : text.map((part) => part[1]).join(""));
  const spoken = (section, sample) =>
    [section.texts[sample[3]], section.texts[sample[4]], sample[1], ...sample[5].filter(Boolean).map((answer) => section.texts[answer[0]])]
      .map(plain).join("\n").toLowerCase();
  const is = (kind, sample) => {
    const [base, own] = [sample[5][0], sample[5][state.decoder]];
    return kind === "all" || Boolean(base && own && KINDS[kind][1](base[1], own[1], base[0] === own[0]));
  };

  const marked = (text) => {
    const words = typeof text === "string" ? [[0, text]] : text;
    return element("bdi", { class: "words" }, ...words.map(([kind, word], place) => {
      if (!kind) return place ? word : word.trimStart();
      const hint = kind === 2 ? " (hallucinated)" : " (grounded)";
      return element("mark", { class: kind === 2 ? "invented" : "grounded" }, word, element("span", { class: "vh" }, hint));
    }));
  };
  const verdict = (section, answer, base) => {
    const [, right, note] = answer;
    if (right === null) return "";
    const silent = typeof section.texts[answer[0]] === "string"; // of a caption: the scorer finds no object word in it
    const fine = section.kind === "captions" ? (silent ? "names no object" : "nothing absent") : "right";
    const words = right ? fine : section.kind === "captions" ? note : "wrong";
    const change = base && base !== answer && base[1] !== right ? (right ? ", fixed" : ", broken") : "";
    return element("span", { class: right ? "verdict good" : "verdict bad" }, `${right ? "\u2713" : "\u2717"} ${words}${change}`);
  };
  const said = (text) => {
    const box = element("p", { class: "said" }, marked(text));
    const length = plain(text).length;
    if (!length) box.replaceChildren(element("span", { class: "side" }, "(empty)"));
    if (length <= LONG) return box;
    const wrap = element("div", {}, box);
    box.classList.add("long");
    const all = element("button", { type: "button", class: "plain", "aria-expanded": "false" }, `Show all ${length.toLocaleString("en")} characters`);
    all.addEventListener("click", () => {
      const open = box.classList.toggle("long") === false;
      all.setAttribute("aria-expanded", String(open));
      all.textContent = open ? "Show less" : `Show all ${length.toLocaleString("en")} characters`;
    });
    wrap.append(all);
    return wrap;
  };
  const reasons = (section, answer, name, stage, looked, peers) => {
    if (answer[3] === null) return null;
    const button = element("button", { type: "button", class: "plain", "aria-expanded": "false" }, "Why these words", element("span", { class: "vh" }, ` (${name})`));
    const box = element("div", { hidden: true });
    peers.push(() => { box.hidden = true; button.setAttribute("aria-expanded", "false"); });
    button.addEventListener("click", () => {
      const open = box.hidden;
      for (const close of peers) close();
      if (stage) { sightline.paint(stage, null, null); looked.replaceChildren(); }
      if (!open) return;
      box.replaceChildren(sightline.view(section.traces[answer[3]], name, stage, looked));
      box.hidden = false;
      button.setAttribute("aria-expanded", "true");
    });
    return element("div", { class: "reasons" }, button, box);
  };
  const card = (section, sample, number) => {
    const [place, name, splits, question, truth, answers] = sample;
    const id = `sample-${number}`;
    let stage = null, looked = null, left = null;
    if (place !== null) {
      const [source, width, height, small] = images[place];
      const image = element("img", { src: source, width, height, decoding: "async", alt: `Image ${name}`, class: small ? "small" : "" });
      stage = element("figure", { class: "stage" }, image);
      looked = element("p", { class: "looked", "aria-live": "polite" });
      left = element("div", { class: "left" }, stage, looked);
    }
    const peers = [];
    const tiles = [0, state.decoder, ...section.decoders.keys()].filter((at, index, all) => all.indexOf(at) === index && state.shown.has(at)).map((at) => {
      const [label, role, mode] = section.decoders[at];
      const answer = answers[at];
      const head = element("h4", {}, element("bdi", {}, label), state.modes > 1 ? element("span", { class: "side" }, ` ${mode}`) : "", role === "control" ? element("span", { class: "side" }, " control") : "");
      if (!answer) return element("li", { class: "answer" }, head, element("p", { class: "said side" }, "no answer"));
      return element("li", { class: at === state.decoder && at ? "answer chosen" : "answer" }, head, verdict(section, answer, answers[0]), said(section.texts[answer[0]]), reasons(section, answer, label, stage, looked, peers));
    });
    const about = section.kind === "captions" ? "In the image" : "Truth";
    return element("article", { class: left ? "card" : "card bare", "aria-labelledby": id }, left, element("div", {},
      element("h3", { id }, element("bdi", { class: "words" }, section.texts[question])),
      element("p", { class: "side" }, element("bdi", {}, name), splits ? ` \u00b7 ${splits}` : ""),
      element("p", { class: "truth" }, `${about}: `, element("strong", {}, element("bdi", {}, section.texts[truth]))),
      element("ul", { class: "answers" }, ...tiles)));
  };

  const more = () => {
    const part = state.found.slice(state.made, state.made + CHUNK);
    $("cards").append(...part.map((sample, place) => card(state.section, sample, state.made + place)));
    state.made += part.length;
    $("more").hidden = state.made >= state.found.length;
  };
  const show = () => {
    const section = state.section;
    const word = $("search").value.trim().toLowerCase();
    const split = $("split").value;
    const fits = (sample) =>
      (!split || sample[2].split(", ").includes(split)) && (!word || spoken(section, sample).includes(word)) &&
      (!$("reasons").checked || [0, state.decoder].some((at) => sample[5][at] && sample[5][at][3] !== null));
    const kept = section.samples.filter(fits);
    state.found = kept.filter((sample) => is(state.kind, sample));
    for (const button of $("filters").children) {
      const count = kept.filter((sample) => is(button.value, sample)).length;
      button.replaceChildren(`${KINDS[button.value][0]} `, element("span", {}, count.toLocaleString("en")));
      button.setAttribute("aria-pressed", String(button.value === state.kind));
    }
    const [count, all] = [state.found.length, section.samples.length].map((value) => value.toLocaleString("en"));
    $("count").textContent = `${count} of ${all} samples. Fixed: greedy is wrong and ${section.decoders[state.decoder][0]} is right; broken: the reverse.`
      .replace("greedy", section.decoders[0][0]);
    $("printed").textContent = "";
    $("cards").replaceChildren($("cards").firstElementChild);
    state.made = 0;
    more();
  };
  const option = (value, text) => element("option", { value }, text);
  const choose = (place) => {
    const section = (state.section = load(place));
    state.modes = new Set(section.decoders.map((decoder) => decoder[2])).size;
    const names = section.decoders.map(([label, , mode]) => (state.modes > 1 ? `${label} (${mode})` : label));
    state.decoder = Math.max(0, section.decoders.findIndex((decoder, at) => at && decoder[1] === "strategy"));
    state.shown = new Set(section.decoders.keys());
    $("baseline").textContent = names[0];
    $("decoder").replaceChildren(...names.map((name, at) => option(at, name)).slice(names.length > 1 ? 1 : 0));
    $("decoder").value = state.decoder;
    const splits = [...new Set(section.samples.flatMap((sample) => sample[2].split(", ")))].filter(Boolean);
    $("split").replaceChildren(option("", "all"), ...splits.map((split) => option(split, split)));
    $("split").parentElement.hidden = splits.length < 2;
    $("note").hidden = !section.note;
    $("note").textContent = section.note;
    $("reasons").parentElement.hidden = !section.traces.length;
    $("reasons").checked = false;
    $("columns").replaceChildren(...names.map((name, at) => {
      const box = element("input", { type: "checkbox", checked: true });
      box.addEventListener("change", () => { state.shown[box.checked ? "add" : "delete"](at); count(); show(); });
      return element("label", { class: "tick" }, box, element("bdi", {}, ` ${name}`));
    }));
    const count = () => { $("columns-count").textContent = `Decoders shown: ${state.shown.size} of ${names.length}`; };
    count();
    show();
  };
  $("filters").append(...Object.keys(KINDS).map((kind) => {
    const button = element("button", { type: "button", value: kind });
    button.addEventListener("click", () => { state.kind = kind; show(); });
    return button;
  }));
  $("choices").addEventListener("submit", (event) => event.preventDefault());
  $("section").addEventListener("change", () => choose($("section").value));
  $("decoder").addEventListener("change", () => { state.decoder = Number($("decoder").value); show(); });
  for (const id of ["split", "reasons"]) $(id).addEventListener("change", show);
  let waiting = 0;
  $("search").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(show, 150); });
  $("more").addEventListener("click", () => {
    const before = state.made;
    more();
    const first = $("cards").querySelectorAll("article")[before]?.querySelector("button");
    first?.focus();
  });
  addEventListener("beforeprint", () => {
    while (state.made < Math.min(PRINTED, state.found.length)) more();
    const left = state.found.length - state.made;
    $("printed").textContent = left ? `The first ${state.made.toLocaleString("en")} are printed; filter for others.` : "";
  });
  new IntersectionObserver((seen) => { if (seen.some((each) => each.isIntersecting) && !$("more").hidden) more(); }, { rootMargin: "800px" })
    .observe($("more").parentElement);
  choose(0);
}
