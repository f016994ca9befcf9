// Mouse and touch on the stage.

import { AXES, cellAt, placeIn } from "./cells.js";
import { fromHalf } from "./half.js";
import { turnedBy } from "./turning.js";
import { short } from "./words.js";

const CLICK = 4; // CSS pixels: less is no drag
const DIVIDER = 12;
const RADIANS = 0.008; // per pixel

/** Calls `pointed()` when the pointer moved, `changed()` when the drawing changes, `moved()` when other slices are wanted. */
export class Pointer {
  constructor(stage, scene, cells, { changed, pointed, moved, fit }) {
    Object.assign(this, { stage, scene, cells, changed, pointed, moved });
    this.drag = null;
    this.under = null; // where the pointer rests
    stage.addEventListener("pointerdown", (event) => this.down(event));
    stage.addEventListener("pointermove", (event) => this.move(event));
    stage.addEventListener("pointerup", (event) => this.up(event));
    stage.addEventListener("pointercancel", () => (this.drag = null));
    stage.addEventListener("pointerleave", () => {
      this.under = null;
      this.pointed();
    });
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("dblclick", fit);
  }

  place(event) {
    const box = this.stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  down(event) {
    if (event.button !== 0) return;
    const [x, y] = this.place(event);
    const { settings, width } = this.scene;
    const isDivider = settings.layout === "divider" && Math.abs(x - settings.divider * width) < DIVIDER;
    this.drag = { x, y, cell: cellAt(this.cells(), x, y), isDivider, hasMoved: false };
    this.stage.setPointerCapture(event.pointerId);
  }

  move(event) {
    const [x, y] = this.place(event);
    this.under = [x, y];
    const { drag } = this;
    if (drag) {
      const [dx, dy] = [x - drag.x, y - drag.y];
      if (drag.hasMoved || Math.hypot(dx, dy) >= CLICK) {
        this.dragBy(drag, dx, dy, event.shiftKey);
        Object.assign(drag, { x, y, hasMoved: true });
        this.changed();
      }
    }
    this.pointed();
  }

  dragBy(drag, dx, dy, isShifted) {
    const { settings, view, width } = this.scene;
    if (drag.isDivider) {
      settings.divider = Math.min(Math.max(settings.divider + dx / width, 0.02), 0.98);
    } else if (drag.cell?.plane === "block") {
      if (isShifted) view.shift = [view.shift[0] - dx / view.blockZoom, view.shift[1] - dy / view.blockZoom];
      else view.turn = turnedBy(view.turn, -dx * RADIANS, dy * RADIANS);
    } else if (drag.cell) {
      const [across, down] = AXES[drag.cell.plane];
      view.middle[across] -= dx / view.zoom;
      view.middle[down] -= dy / view.zoom;
    }
  }

  up(event) {
    const { drag } = this;
    this.drag = null;
    if (!drag) return;
    if (drag.isDivider) this.scene.keep();
    if (!drag.hasMoved && !drag.isDivider && this.scene.settings.mode === "ortho" && drag.cell) this.cross(drag.cell, event);
  }

  /** Slices through the point that was clicked. */
  cross(cell, event) {
    const extent = this.scene.extent();
    if (!extent) return;
    const place = placeIn(cell, this.scene.view, ...this.place(event));
    AXES[cell.plane].forEach((axis, index) => {
      this.scene.view.at[axis] = Math.min(Math.max(place[index] / extent[axis], 0), 0.9999);
    });
    this.moved();
  }

  wheel(event) {
    event.preventDefault();
    const [x, y] = this.place(event);
    const amount = event.deltaY || event.deltaX; // with Shift some systems scroll sideways
    if (event.shiftKey || event.altKey) {
      this.slice(Math.sign(amount));
      return;
    }
    const { view } = this.scene;
    const cell = cellAt(this.cells(), x, y);
    if (!cell) return;
    const factor = Math.exp(-Math.min(Math.max(amount, -200), 200) * 0.0015);
    const before = placeIn(cell, view, x, y);
    if (cell.plane === "block") view.blockZoom *= factor;
    else view.zoom *= factor;
    const after = placeIn(cell, view, x, y);
    const [u, v] = [before[0] - after[0], before[1] - after[1]];
    if (cell.plane === "block") view.shift = [view.shift[0] + u, view.shift[1] + v];
    else {
      const [across, down] = AXES[cell.plane];
      view.middle[across] += u;
      view.middle[down] += v;
    }
    this.changed();
  }

  /** So many slices further. */
  slice(count) {
    const [planes] = this.scene.shape();
    const index = Math.floor(this.scene.view.at.z * planes) + count;
    this.scene.view.at.z = (Math.min(Math.max(index, 0), planes - 1) + 0.5) / planes;
    this.moved();
  }

  /** What lies under the pointer, in words. */
  words() {
    const extent = this.scene.extent();
    if (!this.under || !extent) return "";
    const cell = cellAt(this.cells(), ...this.under);
    if (!cell || cell.plane === "block") return "";
    const place = placeIn(cell, this.scene.view, ...this.under);
    const [across, down] = AXES[cell.plane];
    const parts = [place[0] / extent[across], place[1] / extent[down]];
    if (parts.some((one) => one < 0 || one >= 1)) return "";
    const unit = extent.isKnown ? "µm" : "px";
    const values = this.scene.shown().map(({ about, images }) => {
      const counts = ["raw", "restored"].map((kind) => countAt(images.get(`${kind}/${cell.plane}`), parts));
      return `${about.channel} ${counts.filter((one) => one !== null).map(short).join(" → ")}`;
    });
    return `${across} ${place[0].toFixed(2)} ${down} ${place[1].toFixed(2)} ${unit}  ${values.join("  ")}`;
  }
}

function countAt(image, [across, down]) {
  if (!image) return null;
  const [rows, columns] = image.shape;
  const index = Math.floor(down * rows) * columns + Math.floor(across * columns);
  return fromHalf(image.half[index]) * image.scale + image.base;
}
