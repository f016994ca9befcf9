// What is shown: the pictures that came, how they look, and from where they are seen.

import { extentOf } from "./cells.js";
import { colorOf, firstLook, follow } from "./looks.js";
import { UPRIGHT } from "./turning.js";

const KEPT = "live_restore";
const BLOCK_SIDE = 256;

export class Scene {
  constructor() {
    this.settings = { layout: "side", mode: "slice", divider: 0.5, same: false, looks: {}, ...read() };
    this.view = { at: { x: 0.5, y: 0.5, z: 0.5 }, middle: { x: 0, y: 0, z: 0 }, zoom: 1, blockZoom: 1, shift: [0, 0], turn: UPRIGHT };
    this.pictures = new Map(); // by channel
    this.status = { positions: [], points: [], channels: [], received: 0, skipped: 0, backfilled: 0, missed: 0 };
    this.position = null; // that the user chose
    this.point = null; // that he let go at; none while he follows
    this.revision = 0;
    this.width = this.height = 1;
    this.fittedTo = null; // the volume's size that zoom and middle were chosen for
  }

  /** What the server is to send. */
  wish() {
    const { layout, mode } = this.settings;
    const { x, y, z } = this.view.at;
    const channels = this.status.channels.filter((name) => this.look(name).isVisible);
    return {
      revision: this.revision,
      position: this.position,
      channels: this.status.channels.length ? channels : null,
      kinds: layout === "side" || layout === "divider" ? ["raw", "restored"] : [layout],
      mode,
      x,
      y,
      z,
      point: this.point,
      most_side: BLOCK_SIDE,
    };
  }

  /** A channel's look. */
  look(channel) {
    const { looks } = this.settings;
    looks[channel] ??= firstLook();
    return looks[channel];
  }

  /** Name of a channel's colour. */
  color(channel) {
    const names = this.status.channels;
    return colorOf(this.look(channel), names.indexOf(channel), names.length);
  }

  /** A status came; a daemon that began anew is followed again. */
  takeStatus(status) {
    if (status.session !== this.status.session) this.point = null;
    this.status = { channels: [], points: [], ...status };
  }

  /** A picture came: its images go into textures, where there are some already into those. */
  takePicture(about, images, painter) {
    if (about.revision !== this.revision) return;
    const before = this.pictures.get(about.channel);
    const filled = new Map();
    for (const image of images) {
      const name = `${image.kind}/${image.plane}`;
      const old = before?.images.get(name);
      filled.set(name, { ...image, ...painter.fill(image, old) });
      before?.images.delete(name);
    }
    for (const one of before?.images.values() ?? []) painter.forget(one);
    const isSame = before && ["session", "position", "sequence"].every((one) => before.about[one] === about[one]);
    const firstAgeMs = isSame ? before.firstAgeMs : null;
    this.pictures.set(about.channel, { about, images: filled, at: performance.now(), firstAgeMs });
    follow(this.look(about.channel), about.headers);
  }

  /** Pictures of channels that are seen; the newest first. */
  shown() {
    const seen = [...this.pictures.values()].filter(
      ({ about }) => this.look(about.channel).isVisible && this.status.channels.includes(about.channel),
    );
    return seen.sort((a, b) => b.about.time - a.about.time);
  }

  /** Size of what is shown, in µm; null where nothing is. */
  extent() {
    for (const { about } of this.shown()) {
      const header = about.headers.restored ?? about.headers.raw;
      if (header) return extentOf(header);
    }
    return null;
  }

  /** Shape (z, y, x) of what is shown. */
  shape() {
    for (const { about } of this.shown()) {
      const header = about.headers.restored ?? about.headers.raw;
      if (header) return header.shape;
    }
    return [1, 1, 1];
  }

  /** Whether nothing of a kind came with any of the pictures. */
  isLacking(kind) {
    return this.shown().every(({ about }) => !about.headers[kind]);
  }

  lackWords(kind) {
    const [first] = this.shown();
    if (kind === "raw") return "raw: not held any more";
    if (!first?.about.headers.raw) return "not held any more";
    return `raw only: nothing was restored${first.about.why_not ? ` (${first.about.why_not})` : ""}`;
  }

  /** The index of the shown time point on the time slider. */
  pointIndex() {
    const { points } = this.status;
    const [first] = this.shown();
    const wanted = this.point ?? (first ? [first.about.acquisition, first.about.time] : null);
    const found = wanted ? points.findLastIndex(([a, t]) => a === wanted[0] && t === wanted[1]) : -1;
    return found >= 0 ? found : points.length - 1;
  }

  /** Pictures of what isn't there any more. */
  forget(painter) {
    for (const { images } of this.pictures.values()) for (const one of images.values()) painter.forget(one);
    this.pictures.clear();
  }

  /** Remember the settings for the next time. */
  keep() {
    try {
      localStorage.setItem(KEPT, JSON.stringify(this.settings));
    } catch {
      // A browser that keeps nothing: the settings hold as long as the page.
    }
  }
}

function read() {
  try {
    return JSON.parse(localStorage.getItem(KEPT)) ?? {};
  } catch {
    return {};
  }
}
