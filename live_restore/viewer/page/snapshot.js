// What is seen, as a PNG.

export function snapshot(canvases, name) {
  const [first] = canvases;
  const flat = Object.assign(document.createElement("canvas"), { width: first.width, height: first.height });
  const context = flat.getContext("2d");
  for (const one of canvases) context.drawImage(one, 0, 0);
  flat.toBlob((blob) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${name.replace(/[^\p{L}\p{N} ._-]+/gu, "_")}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }, "image/png");
}
