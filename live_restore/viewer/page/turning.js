// Rotation matrices of the block, as nine numbers column by column: from the screen's axes to the block's.

export const UPRIGHT = turnedBy([1, 0, 0, 0, 1, 0, 0, 0, 1], 0.6, -0.9);

/** Turned further, by angles about the screen's vertical and horizontal axis. */
export function turnedBy(turn, aboutVertical, aboutHorizontal) {
  const [c, s] = [Math.cos(aboutVertical), Math.sin(aboutVertical)];
  const [d, t] = [Math.cos(aboutHorizontal), Math.sin(aboutHorizontal)];
  const vertical = [c, 0, -s, 0, 1, 0, s, 0, c];
  const horizontal = [1, 0, 0, 0, d, t, 0, -t, d];
  return straightened(product(turn, product(vertical, horizontal)));
}

/** Where a point of the block lies on the screen, and its depth. */
export function onScreen(turn, [x, y, z]) {
  return [0, 3, 6].map((c) => turn[c] * x + turn[c + 1] * y + turn[c + 2] * z);
}

function product(a, b) {
  const out = [];
  for (let column = 0; column < 3; column++) {
    for (let row = 0; row < 3; row++) {
      out.push(a[row] * b[3 * column] + a[3 + row] * b[3 * column + 1] + a[6 + row] * b[3 * column + 2]);
    }
  }
  return out;
}

/** The same after many turns: rounding is taken out. */
function straightened(m) {
  const unit = (v) => v.map((one) => one / Math.hypot(...v));
  const a = unit(m.slice(0, 3));
  const along = a[0] * m[3] + a[1] * m[4] + a[2] * m[5];
  const b = unit([m[3] - along * a[0], m[4] - along * a[1], m[5] - along * a[2]]);
  const c = [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
  return [...a, ...b, ...c];
}
