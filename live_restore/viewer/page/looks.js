// How channels look: colour, gamma, and between which counts.

export const COLORS = { yellow: [1, 1, 0], cyan: [0, 1, 1], magenta: [1, 0, 1], gray: [1, 1, 1] };
const ORDER = ["yellow", "cyan", "magenta", "gray"];

/** What a channel looks like before anybody chose. */
export function firstLook() {
  return { color: null, isVisible: true, gamma: 1, isContinuous: true, limits: {} };
}

/** The colour that was chosen, or the one of the channel's place; a channel alone is gray. */
export function colorOf(look, index, count) {
  return look.color ?? (count === 1 ? "gray" : ORDER[Math.max(index, 0) % ORDER.length]);
}

/** Limits by a volume's own percentiles, without 0.1 % of the voxels at either end. */
export function autoLimits(header) {
  const { p0_1: low, p99_9: high } = header.statistics;
  return high > low ? [low, high] : [low, low + 1];
}

/** New limits for a channel that follows each volume. */
export function follow(look, headers) {
  for (const [kind, header] of Object.entries(headers)) {
    if (look.isContinuous || !look.limits[kind]) look.limits[kind] = autoLimits(header);
  }
}

/** Between which counts a kind is drawn. */
export function limitsOf(look, kind, isSame) {
  const own = look.limits[kind] ?? look.limits.restored ?? look.limits.raw ?? [0, 1];
  return isSame ? look.limits.restored ?? own : own;
}

/** The same for the painter, whose images go from 0 to 1. */
export function lookFor(look, color, kind, isSame, image) {
  const limits = limitsOf(look, kind, isSame).map((one) => (one - image.base) / image.scale);
  return { limits, gamma: look.gamma, color: COLORS[color] };
}
