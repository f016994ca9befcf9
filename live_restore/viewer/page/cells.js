// Where things lie: panels, the cells in them, and the camera that looks at each.

const GAP = 3;
const LEAST_SHARE = 0.12;
const MOST_SHARE = 0.35;

/** Sizes of a volume in µm, or in voxels where their size isn't known. */
export function extentOf(header) {
  const [z, y, x] = header.shape;
  const [dz, dy, dx] = header.voxel_size_um ?? [1, 1, 1];
  return { x: x * dx, y: y * dy, z: z * dz, isKnown: header.voxel_size_um !== null };
}

/** The cells that fill a stage, in CSS pixels; each of one kind and plane, with the part of it that is drawn. */
export function cellsOf(settings, extent, width, height) {
  const stage = { x: 0, y: 0, width, height };
  if (settings.layout === "divider") {
    const at = settings.divider * width;
    const left = { ...stage, width: at };
    const right = { ...stage, x: at, width: width - at };
    return [...inPanel("raw", stage, left, settings.mode, extent), ...inPanel("restored", stage, right, settings.mode, extent)];
  }
  if (settings.layout !== "side") return inPanel(settings.layout, stage, stage, settings.mode, extent);
  const half = (width - GAP) / 2;
  const right = { ...stage, x: half + GAP, width: half };
  const left = { ...stage, width: half };
  return [...inPanel("raw", left, left, settings.mode, extent), ...inPanel("restored", right, right, settings.mode, extent)];
}

function inPanel(kind, panel, clip, mode, extent) {
  const cell = (plane, x, y, width, height) => ({
    kind,
    plane,
    x: panel.x + x,
    y: panel.y + y,
    width,
    height,
    clip: meet(clip, { x: panel.x + x, y: panel.y + y, width, height }),
  });
  const { width, height } = panel;
  if (mode === "block") return [cell("block", 0, 0, width, height)];
  if (mode === "slice") return [cell("xy", 0, 0, width, height)];
  // As large as the window allows, in the middle of it.
  const depth = (other) => Math.min(Math.max(extent.z, LEAST_SHARE * (other + extent.z)), MOST_SHARE * (other + extent.z));
  const [right, below] = [depth(extent.x), depth(extent.y)];
  const scale = Math.min((width - GAP) / (extent.x + right), (height - GAP) / (extent.y + below));
  const [w, h] = [extent.x * scale, extent.y * scale];
  const [left, top] = [(width - GAP - w - right * scale) / 2, (height - GAP - h - below * scale) / 2];
  return [
    cell("xy", left, top, w, h),
    cell("yz", left + w + GAP, top, right * scale, h),
    cell("xz", left, top + h + GAP, w, below * scale),
  ];
}

function meet(one, other) {
  const x = Math.max(one.x, other.x);
  const y = Math.max(one.y, other.y);
  return {
    x,
    y,
    width: Math.max(0, Math.min(one.x + one.width, other.x + other.width) - x),
    height: Math.max(0, Math.min(one.y + one.height, other.y + other.height) - y),
  };
}

/** Which of the volume's axes a plane shows, across and down. */
export const AXES = { xy: ["x", "y"], xz: ["x", "z"], yz: ["z", "y"] };

/** What the painter needs to know of a cell. */
export function cameraOf(cell, view, extent) {
  if (cell.plane === "block") {
    return { middle: view.shift, zoom: view.blockZoom, extent: [extent.x, extent.y, extent.z], turn: view.turn };
  }
  const [across, down] = AXES[cell.plane];
  return { middle: [view.middle[across], view.middle[down]], zoom: view.zoom, extent: [extent[across], extent[down]] };
}

/** The place in the volume under a point of the stage, on the two axes of the cell. */
export function placeIn(cell, view, x, y) {
  const zoom = cell.plane === "block" ? view.blockZoom : view.zoom;
  const offset = [(x - cell.x - cell.width / 2) / zoom, (y - cell.y - cell.height / 2) / zoom];
  if (cell.plane === "block") return [view.shift[0] + offset[0], view.shift[1] + offset[1]];
  const [across, down] = AXES[cell.plane];
  return [view.middle[across] + offset[0], view.middle[down] + offset[1]];
}

/** The cell under a point of the stage; of two that lie one above the other, the one that is seen there. */
export function cellAt(cells, x, y) {
  return cells.find(({ clip }) => x >= clip.x && x < clip.x + clip.width && y >= clip.y && y < clip.y + clip.height);
}

/** Zoom and middle that show all of a volume. */
export function fitted(cells, extent) {
  const cell = cells[0];
  return {
    middle: { x: extent.x / 2, y: extent.y / 2, z: extent.z / 2 },
    zoom: (cells.length > 2 ? 1 : 0.97) * Math.min(cell.width / extent.x, cell.height / extent.y),
    blockZoom: (0.97 * Math.min(cell.width, cell.height)) / Math.hypot(extent.x, extent.y, extent.z),
    shift: [0, 0],
  };
}
