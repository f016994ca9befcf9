// What lies over the pictures: names, scale bar, crosshair, the block's edges, the divider.

import { AXES } from "./cells.js";
import { onScreen } from "./turning.js";
import { lengthWords, roundLength } from "./words.js";

const BAR = 110; // CSS pixels, about
const MARGIN = 14;
const QUIET = "rgba(255, 255, 255, 0.45)";

export function drawOverlay(context, scene, cells, extent) {
  context.font = "600 13px system-ui, sans-serif";
  context.lineWidth = 1;
  const { settings, view } = scene;
  for (const cell of cells) {
    context.save();
    context.beginPath();
    context.rect(cell.clip.x, cell.clip.y, cell.clip.width, cell.clip.height);
    context.clip();
    if (cell.plane === "block") drawEdges(context, cell, view, extent);
    else if (settings.mode === "ortho") drawCross(context, cell, view, extent);
    if (cell.plane === "xy" || cell.plane === "block") drawName(context, cell, scene, settings.layout === "divider");
    context.restore();
  }
  for (const cell of cells.filter((one) => one.plane === "xy" || one.plane === "block")) {
    if (settings.layout !== "divider" || cell.kind === "restored") drawBar(context, cell, view, extent);
  }
  if (settings.layout === "divider") drawDivider(context, settings.divider * scene.width, scene.height);
}

function drawName(context, cell, scene, isDivided) {
  const isAtRight = isDivided && cell.kind === "restored";
  const text = scene.isLacking(cell.kind) ? scene.lackWords(cell.kind) : cell.kind;
  context.textAlign = isAtRight ? "right" : "left";
  context.textBaseline = "top";
  const x = isAtRight ? cell.x + cell.width - MARGIN : cell.x + MARGIN;
  label(context, text, x, cell.y + MARGIN - 4);
}

function label(context, text, x, y) {
  context.lineWidth = 3;
  context.strokeStyle = "rgba(0, 0, 0, 0.8)";
  context.strokeText(text, x, y);
  context.fillStyle = "#fff";
  context.fillText(text, x, y);
  context.lineWidth = 1;
}

function drawBar(context, cell, view, extent) {
  const zoom = cell.plane === "block" ? view.blockZoom : view.zoom;
  const length = roundLength(BAR / zoom);
  const right = cell.x + cell.width - MARGIN;
  const y = cell.y + cell.height - MARGIN;
  context.fillStyle = "#000c";
  context.fillRect(right - length * zoom - 1, y - 5, length * zoom + 2, 6);
  context.fillStyle = "#fff";
  context.fillRect(right - length * zoom, y - 4, length * zoom, 4);
  context.textAlign = "right";
  context.textBaseline = "bottom";
  label(context, lengthWords(length, extent.isKnown), right, y - 7);
}

function drawCross(context, cell, view, extent) {
  const [across, down] = AXES[cell.plane];
  const at = (axis, middle, start, size) => start + size / 2 + (view.at[axis] * extent[axis] - middle) * view.zoom;
  const x = Math.round(at(across, view.middle[across], cell.x, cell.width)) + 0.5;
  const y = Math.round(at(down, view.middle[down], cell.y, cell.height)) + 0.5;
  context.strokeStyle = QUIET;
  context.setLineDash([5, 4]);
  context.beginPath();
  context.moveTo(x, cell.y);
  context.lineTo(x, cell.y + cell.height);
  context.moveTo(cell.x, y);
  context.lineTo(cell.x + cell.width, y);
  context.stroke();
  context.setLineDash([]);
}

function drawEdges(context, cell, view, extent) {
  const corner = (index) => {
    const half = [extent.x, extent.y, extent.z].map((size, axis) => (index & (1 << axis) ? size : -size) / 2);
    const [x, y] = onScreen(view.turn, half);
    return [
      cell.x + cell.width / 2 + (x - view.shift[0]) * view.blockZoom,
      cell.y + cell.height / 2 + (y - view.shift[1]) * view.blockZoom,
    ];
  };
  context.strokeStyle = QUIET;
  context.beginPath();
  for (let index = 0; index < 8; index++) {
    for (const axis of [1, 2, 4].filter((bit) => !(index & bit))) {
      context.moveTo(...corner(index));
      context.lineTo(...corner(index | axis));
    }
  }
  context.stroke();
}

function drawDivider(context, x, height) {
  context.fillStyle = "#5fb4ff";
  context.fillRect(x - 1, 0, 2, height);
  context.beginPath();
  context.arc(x, height / 2, 9, 0, 2 * Math.PI);
  context.fill();
  context.fillStyle = "#111418";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText("⇔", x, height / 2 + 1);
}
