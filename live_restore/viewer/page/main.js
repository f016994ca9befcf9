// Wires the page: what comes goes into the scene, the scene to the screen, and wishes back.

import { cameraOf, cellsOf, fitted } from "./cells.js";
import { adjustOnce, ageOf, showBanner, showBars, showChannels, showFacts, showPointer, showVerdicts } from "./controls.js";
import { Link } from "./link.js";
import { lookFor } from "./looks.js";
import { drawOverlay } from "./overlay.js";
import { Painter } from "./painter.js";
import { Pointer } from "./pointer.js";
import { Scene } from "./scene.js";
import { snapshot } from "./snapshot.js";
import { duration } from "./words.js";

const STALE_MS = 3000;
const TICK_MS = 250;
const SLOW_MS = 150; // for a block: fewer pixels then
const FAST_MS = 40;
const LEAST_QUALITY = 0.2;

const byId = (id) => document.getElementById(id);
const stage = byId("stage");
const picture = byId("picture");
const overlay = byId("overlay");
const scene = new Scene();
let painter;
let undrawn = null; // number of the message that isn't on the screen yet
let isPlanned = false;
let isUnpainted = true; // something that the canvases show has changed
let hasFigures = false; // that changed since they were shown
let silence = null; // of the daemon, and when that was known
let isOpen = false;
let blockQuality = 1; // pixels of the block's canvas over those of the screen, along a side

const cells = () => cellsOf(scene.settings, scene.extent() ?? { x: 1, y: 1, z: 1 }, scene.width, scene.height);
const pointer = new Pointer(stage, scene, cells, { changed: repaint, pointed: plan, moved: wish, fit });
const link = new Link(take, (state) => {
  isOpen = state;
  tick();
});

// --- what comes ---

function take(header, images) {
  const { status, picture: about } = header;
  silence = status.silence_ms === null ? null : { ms: status.silence_ms, at: performance.now() };
  const before = `${scene.status.channels}`;
  const hasLetGo = scene.point !== null;
  scene.takeStatus(status);
  if (about) {
    scene.takePicture(about, images, painter);
    isUnpainted = true;
  }
  if (before !== `${scene.status.channels}` || (hasLetGo && scene.point === null)) wish();
  undrawn = header.number;
  hasFigures = true;
  plan();
}

/** Other pictures are wanted from now on. */
function wish() {
  scene.revision++;
  link.wish(scene.wish());
  hasFigures = true;
  repaint();
}

// --- to the screen ---

function plan() {
  if (isPlanned) return;
  isPlanned = true;
  requestAnimationFrame(draw);
}

function repaint() {
  isUnpainted = true;
  plan();
}

function draw() {
  isPlanned = false;
  if (resize()) isUnpainted = true;
  const extent = scene.extent();
  const size = extent ? `${extent.x} ${extent.y} ${extent.z}` : scene.fittedTo;
  if (extent && scene.fittedTo !== size) {
    Object.assign(scene.view, fitted(cells(), extent));
    scene.fittedTo = size;
    isUnpainted = true;
  }
  if (isUnpainted) {
    isUnpainted = false;
    paint(extent);
  }
  if (hasFigures) {
    hasFigures = false;
    showVerdicts(scene);
    showChannels(scene, (needsPictures) => {
      hasFigures = true;
      if (needsPictures) wish();
      else repaint();
    });
    showBars(scene);
  }
  showPointer(pointer.words());
  byId("empty").textContent = extent ? "" : emptyWords();
  report();
  if (undrawn !== null) {
    const number = undrawn;
    undrawn = null;
    link.drawn(number);
  }
}

function paint(extent) {
  painter.clear();
  const context = overlay.getContext("2d");
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, overlay.width, overlay.height);
  if (!extent) return;
  const started = performance.now();
  const all = cells();
  for (const cell of all) {
    for (const { about, images } of scene.shown()) {
      const image = images.get(`${cell.kind}/${cell.plane}`);
      if (!image) continue;
      const look = lookFor(scene.look(about.channel), scene.color(about.channel), cell.kind, scene.settings.same, image);
      painter.draw(cell, cell.clip, image, look, cameraOf(cell, scene.view, extent));
    }
  }
  if (scene.settings.mode === "block") adapt(started);
  context.scale(overlay.width / scene.width, overlay.height / scene.height);
  drawOverlay(context, scene, all, extent);
  for (const one of scene.pictures.values()) one.firstAgeMs ??= ageOf(one);
}

/** A block is drawn in fewer pixels where this PC takes long for it. */
function adapt(started) {
  painter.finish();
  const ms = performance.now() - started;
  if (ms > SLOW_MS) blockQuality = Math.max(blockQuality * 0.6, LEAST_QUALITY);
  else if (ms < FAST_MS) blockQuality = Math.min(blockQuality * 1.25, 1);
}

/** The canvases follow the window; whether they changed. */
function resize() {
  const { clientWidth, clientHeight } = stage;
  let hasChanged = false;
  scene.width = Math.max(clientWidth, 1);
  scene.height = Math.max(clientHeight, 1);
  for (const canvas of [picture, overlay]) {
    const quality = canvas === picture && scene.settings.mode === "block" ? blockQuality : 1;
    const ratio = window.devicePixelRatio * quality;
    const [width, height] = [Math.round(scene.width * ratio), Math.round(scene.height * ratio)];
    if (canvas.width === width && canvas.height === height) continue;
    Object.assign(canvas, { width, height });
    hasChanged = true;
  }
  return hasChanged;
}

/** For who looks at the page by program. */
function report() {
  const [first] = scene.shown();
  Object.assign(document.body.dataset, {
    drawn: undrawn ?? document.body.dataset.drawn ?? "0",
    time: first?.about.time ?? "",
    sequence: first?.about.sequence ?? "",
    channels: scene.shown().length,
    following: scene.point === null,
  });
}

function emptyWords() {
  const { endpoint } = scene.status;
  if (scene.point !== null) return "This time point is held no more.";
  if (silence === null) return endpoint ? `Waiting for a daemon on ${endpoint}.\nStart one: live-restore run PROFILE` : "";
  return "The daemon is there. Waiting for its first volume.";
}

// --- the truth about the link ---

function tick() {
  const now = performance.now();
  const serverMs = now - link.heardAt;
  const daemonMs = silence === null ? null : silence.ms + now - silence.at;
  if (!isOpen) showBanner("The viewer program (live-restore view) has ended: nothing here is live. Start it again.");
  else if (daemonMs !== null && daemonMs > STALE_MS) {
    const who = serverMs > STALE_MS ? "the viewer program" : "the daemon";
    showBanner(`No word from ${who} for ${duration(daemonMs)}: what you see isn't live.`);
  } else if (daemonMs === null && scene.status.endpoint) showBanner(`Waiting for a daemon on ${scene.status.endpoint} …`, true);
  else showBanner("");
  showFacts(scene);
}

// --- from the user ---

function fit() {
  const extent = scene.extent();
  if (extent) Object.assign(scene.view, fitted(cells(), extent));
  repaint();
}

function setLayout(layout) {
  scene.settings.layout = layout;
  scene.fittedTo = null;
  scene.keep();
  wish();
}

function setMode(mode) {
  scene.settings.mode = mode;
  scene.fittedTo = null;
  scene.keep();
  wish();
}

function goLive() {
  scene.point = null;
  wish();
}

/** To a time point by its place on the slider; its end follows. */
function goTo(index) {
  const { points } = scene.status;
  if (!points.length) return;
  const place = Math.min(Math.max(index, 0), points.length - 1);
  scene.point = place === points.length - 1 ? null : points[place];
  wish();
}

function contrast(change) {
  for (const name of scene.status.channels) change(name);
  scene.keep();
  hasFigures = true;
  repaint();
}

const KEYS = {
  1: () => setMode("slice"),
  2: () => setMode("ortho"),
  3: () => setMode("max"),
  4: () => setMode("block"),
  s: () => setLayout("side"),
  d: () => setLayout("divider"),
  e: () => setLayout("restored"),
  w: () => setLayout("raw"),
  f: fit,
  p: save,
  a: () => contrast((name) => adjustOnce(scene, name)),
  c: () => contrast((name) => (scene.look(name).isContinuous = true)),
  " ": () => (scene.point === null ? goTo(scene.pointIndex() - 1) : goLive()),
  End: goLive,
  Home: () => goTo(0),
  ArrowLeft: () => goTo(scene.pointIndex() - 1),
  ArrowRight: () => goTo(scene.pointIndex() + 1),
  ArrowUp: () => pointer.slice(1),
  ArrowDown: () => pointer.slice(-1),
  "?": () => byId("help").showModal(),
};

function save() {
  const [first] = scene.shown();
  isUnpainted = true;
  draw();
  snapshot([picture, overlay], first ? `${first.about.acquisition} ${first.about.time}` : "live_restore");
}

function listen() {
  for (const button of document.querySelectorAll("[data-layout]")) button.onclick = () => setLayout(button.dataset.layout);
  for (const button of document.querySelectorAll("[data-mode]")) button.onclick = () => setMode(button.dataset.mode);
  byId("fit").onclick = fit;
  byId("snapshot").onclick = save;
  byId("help-open").onclick = () => byId("help").showModal();
  byId("live").onclick = () => (scene.point === null ? goTo(scene.pointIndex() - 1) : goLive());
  byId("same").onchange = (event) => {
    scene.settings.same = event.target.checked;
    scene.keep();
    hasFigures = true;
    repaint();
  };
  byId("position").onchange = (event) => {
    scene.position = event.target.value;
    scene.point = null;
    scene.fittedTo = null;
    scene.forget(painter);
    wish();
  };
  byId("slice").oninput = (event) => {
    scene.view.at.z = (Number(event.target.value) + 0.5) / scene.shape()[0];
    wish();
  };
  byId("time").oninput = (event) => goTo(Number(event.target.value));
  document.addEventListener("keydown", (event) => {
    const { target } = event;
    const isTyping = target.matches("input[type=number], select") || (target.matches("input[type=range]") && event.key.length > 1);
    if (isTyping || event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!act || (event.key === " " && target.matches("button"))) return;
    event.preventDefault();
    act();
  });
  // A slider that was let go leaves the arrow keys to the pictures.
  document.addEventListener("change", ({ target }) => target.matches("input[type=range]") && target.blur());
  document.addEventListener("visibilitychange", plan);
  new ResizeObserver(plan).observe(stage);
  picture.addEventListener("webglcontextlost", (event) => event.preventDefault());
  picture.addEventListener("webglcontextrestored", () => {
    scene.pictures.clear();
    painter.prepare();
    wish();
  });
}

try {
  painter = new Painter(picture);
  listen();
  link.open();
  link.wish(scene.wish());
  setInterval(tick, TICK_MS);
  plan();
} catch (error) {
  showBanner(error.message);
}
