// The panel at the side and the bars: from the scene to the page's elements, and back.

import { COLORS, autoLimits, limitsOf } from "./looks.js";
import { assessmentLines, briefWords, duration, factRows, verdictWords } from "./words.js";

const byId = (id) => document.getElementById(id);

function element(name, properties = {}, ...children) {
  const one = Object.assign(document.createElement(name), properties);
  one.append(...children);
  return one;
}

/** Sets children only where they changed, so that nobody's hold on them is lost. */
function setRows(parent, key, make) {
  if (parent.dataset.key === key) return;
  parent.dataset.key = key;
  parent.replaceChildren(...make());
}

// --- verdicts ---

export function showVerdicts(scene) {
  const cards = scene.shown().map(({ about }) => {
    const found = about.headers.restored?.assessment;
    const lack = about.headers.restored || !about.headers.raw ? "" : `raw only${about.why_not ? `: ${about.why_not}` : ""}`;
    return { channel: about.channel, found, lack };
  });
  cards.sort((a, b) => scene.status.channels.indexOf(a.channel) - scene.status.channels.indexOf(b.channel));
  setRows(byId("verdicts"), JSON.stringify(cards), () => cards.map(verdictCard));
}

function verdictCard({ channel, found, lack }) {
  const card = element("div", { className: `verdict ${found?.verdict ?? ""}` });
  const word = found?.verdict ?? (lack ? "raw only" : "no verdict");
  card.append(element("h3", {}, element("span", { textContent: channel || "volume" }), element("span", { className: "word", textContent: word })));
  if (!found) {
    card.append(element("p", { className: "quiet", textContent: lack || "the restored volume isn't shown, or nobody judged it" }));
    return card;
  }
  card.title = found.blind_to.length ? `No verdict sees ${found.blind_to.join("; ")}.` : "";
  card.append(element("p", { textContent: verdictWords(found.verdict) }));
  if (found.reasons.length) card.append(element("ul", {}, ...found.reasons.map((one) => element("li", { textContent: one }))));
  for (const line of assessmentLines(found)) card.append(element("p", { className: "quiet", textContent: line }));
  return card;
}

// --- channels ---

/** Cards to set colour, contrast and gamma; `changed(needsPictures)` is called when something was set. */
export function showChannels(scene, changed) {
  const { channels } = scene.status;
  const kinds = scene.wish().kinds;
  const key = JSON.stringify([channels, kinds, scene.settings.same]);
  setRows(byId("channels"), key, () => channels.map((name) => channelCard(scene, name, kinds, changed)));
  for (const card of byId("channels").children) refreshCard(scene, card);
}

function channelCard(scene, name, kinds, changed) {
  const look = scene.look(name);
  const set = (change, needsPictures = false) => {
    change();
    scene.keep();
    changed(needsPictures);
  };
  const card = element("div", { className: "channel" });
  card.dataset.channel = name;
  const swatch = element("button", { className: "swatch", title: "Next colour" });
  swatch.onclick = () => {
    const names = Object.keys(COLORS);
    set(() => (look.color = names[(names.indexOf(scene.color(name)) + 1) % names.length]));
  };
  const box = element("input", { type: "checkbox", checked: look.isVisible });
  box.onchange = () => set(() => (look.isVisible = box.checked), true);
  const auto = element("button", { className: "auto", textContent: "Auto", title: "Auto contrast with each volume (C)" });
  auto.onclick = () =>
    set(() => {
      look.isContinuous = !look.isContinuous;
      if (look.isContinuous) adjust(scene, name);
    });
  const once = element("button", { textContent: "Once", title: "Auto contrast once (A)" });
  once.onclick = () => set(() => adjustOnce(scene, name));
  card.append(element("div", { className: "top" }, swatch, element("label", { title: name }, box, ` ${name || "volume"}`), auto, once));
  for (const kind of scene.settings.same ? kinds.slice(-1) : kinds) card.append(limitsRow(scene, look, kind, kinds, set));
  const gamma = element("input", { type: "range", className: "gamma", min: 0.2, max: 2, step: 0.05, value: look.gamma });
  const text = element("output", { className: "gamma-text" });
  gamma.oninput = () => set(() => (look.gamma = Number(gamma.value)));
  gamma.ondblclick = () => set(() => (look.gamma = 1));
  card.append(element("div", { className: "row", title: "Double click: 1" }, element("span", { className: "kind", textContent: "gamma" }), gamma, text));
  return card;
}

function limitsRow(scene, look, kind, kinds, set) {
  const fields = [0, 1].map((index) => {
    const field = element("input", { type: "number", step: "any", title: index ? "White at, counts" : "Black at, counts" });
    field.dataset.kind = kind;
    field.dataset.index = index;
    field.onkeydown = ({ key }) => key === "Enter" && field.blur(); // so that keys are shortcuts again
    field.onchange = () => {
      const value = Number(field.value);
      if (field.value === "" || !Number.isFinite(value)) return;
      set(() => {
        for (const one of scene.settings.same ? ["raw", "restored"] : [kind]) {
          const limits = [...limitsOf(look, kind, scene.settings.same)];
          limits[index] = value;
          look.limits[one] = limits;
        }
        look.isContinuous = false;
      });
    };
    return field;
  });
  const name = scene.settings.same && kinds.length > 1 ? "both" : kind;
  return element("div", { className: "row" }, element("span", { className: "kind", textContent: name }), fields[0], "–", fields[1]);
}

function refreshCard(scene, card) {
  const look = scene.look(card.dataset.channel);
  card.querySelector(".swatch").className = `swatch ${scene.color(card.dataset.channel)}`;
  card.querySelector("input[type=checkbox]").checked = look.isVisible;
  card.querySelector(".auto").setAttribute("aria-pressed", look.isContinuous);
  const gamma = card.querySelector(".gamma");
  if (document.activeElement !== gamma) gamma.value = look.gamma;
  card.querySelector(".gamma-text").textContent = look.gamma.toFixed(2);
  for (const field of card.querySelectorAll("input[type=number]")) {
    if (document.activeElement === field) continue;
    field.value = Number(limitsOf(look, field.dataset.kind, scene.settings.same)[field.dataset.index].toPrecision(5));
  }
}

function adjust(scene, name) {
  const headers = scene.pictures.get(name)?.about.headers ?? {};
  for (const [kind, header] of Object.entries(headers)) scene.look(name).limits[kind] = autoLimits(header);
}

/** Auto contrast of what is seen now, to be kept. */
export function adjustOnce(scene, name) {
  adjust(scene, name);
  scene.look(name).isContinuous = false;
}

// --- bars and facts ---

export function showBars(scene) {
  const { settings, status } = scene;
  for (const button of document.querySelectorAll("[data-layout]")) button.setAttribute("aria-pressed", button.dataset.layout === settings.layout);
  for (const button of document.querySelectorAll("[data-mode]")) button.setAttribute("aria-pressed", button.dataset.mode === settings.mode);
  byId("same").checked = settings.same;
  byId("live").setAttribute("aria-pressed", scene.point === null);
  const chosen = status.position ?? "";
  setRows(byId("position"), JSON.stringify([status.positions, chosen]), () =>
    status.positions.map((name) => element("option", { value: name, textContent: name, selected: name === chosen })),
  );
  const [planes] = scene.shape();
  const plane = Math.min(Math.floor(scene.view.at.z * planes), planes - 1);
  const slice = byId("slice");
  slice.max = planes - 1;
  slice.value = plane;
  byId("slice-line").hidden = settings.mode === "max" || settings.mode === "block";
  byId("slice-text").textContent = `${plane + 1} of ${planes}`;
  const time = byId("time");
  time.max = Math.max(status.points.length - 1, 0);
  if (document.activeElement !== time || scene.point === null) time.value = Math.max(scene.pointIndex(), 0);
  const [first] = scene.shown();
  byId("time-text").textContent = first ? `${first.about.time}${scene.point === null ? " (newest)" : ""}` : "–";
  byId("acquisition").textContent = first?.about.acquisition ?? "";
}

export function showFacts(scene) {
  const [shown] = scene.shown();
  const rows = shown ? factRows(shown, scene.status, ageWords(shown)) : [];
  byId("brief").textContent = shown ? briefWords(shown, scene.status, ageWords(shown)) : "";
  setRows(byId("facts").tBodies[0], JSON.stringify(rows), () =>
    rows.map(([name, value, isAlarm]) => element("tr", { className: isAlarm ? "alarm" : "" }, element("td", { textContent: name }), element("td", { textContent: value }))),
  );
}

/** Milliseconds since the last plane reached the daemon; null where no volume came. */
export function ageOf({ about, at }) {
  const [ms] = Object.values(about.age_ms);
  return ms === undefined ? null : ms + performance.now() - at;
}

function ageWords(shown) {
  const age = ageOf(shown);
  if (age === null) return "–";
  const { about, firstAgeMs } = shown;
  if (!firstAgeMs || !about.is_live || about.headers.restored?.backfill) return duration(age);
  return `${Math.round(firstAgeMs)} ms when drawn, now ${duration(age)}`;
}

/** The banner; hidden without text. */
export function showBanner(text, isWaiting) {
  const banner = byId("banner");
  banner.hidden = !text;
  banner.className = isWaiting ? "waiting" : "";
  if (banner.textContent !== text) banner.textContent = text;
}

export function showPointer(text) {
  byId("pointer").textContent = text;
}

