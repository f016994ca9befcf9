// What is said beside the picture.

const VERDICTS = {
  green: "within the model's limits",
  amber: "with care",
  red: "outside the model's limits",
  uncalibrated: "no limits are known",
};

export function verdictWords(verdict) {
  return VERDICTS[verdict] ?? verdict;
}

/** The sentences of an assessment, the reasons first. */
export function assessmentLines(found) {
  const lines = [];
  if (found.signal !== null) lines.push(`signal ${short(found.signal)} photoelectrons per voxel`);
  if (found.error !== null) {
    let error = `error (NRMSE) about ${found.error.toFixed(2)}`;
    if (found.error_bound !== null && found.coverage !== null) {
      error += `, below ${found.error_bound.toFixed(2)} in ${Math.round(100 * found.coverage)} % (n = ${found.num_acquisitions})`;
    }
    lines.push(error);
  }
  const { dose } = found;
  if (dose?.text) lines.push(`light: ${dose.text}`);
  if (dose && dose.time_left_s !== null) lines.push(`bleached in about ${duration(1000 * dose.time_left_s)}`);
  return lines;
}

/** A number with about three digits. */
export function short(value) {
  if (!Number.isFinite(value)) return "–";
  if (value !== 0 && (Math.abs(value) >= 1e5 || Math.abs(value) < 0.01)) return value.toExponential(2);
  return String(Number(value.toPrecision(3)));
}

/** Milliseconds in words. */
export function duration(ms) {
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 120_000) return `${Math.round(ms / 1000)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  return `${Math.round(ms / 3_600_000)} h`;
}

/** A round length of about `wanted`: 1, 2 or 5 times a power of ten. */
export function roundLength(wanted) {
  const power = 10 ** Math.floor(Math.log10(wanted));
  return [5, 2, 1].map((one) => one * power).find((one) => one <= wanted) ?? power;
}

/** What a length is called. */
export function lengthWords(length, isKnown) {
  if (!isKnown) return `${length} voxels`;
  if (length < 1) return `${Number((1000 * length).toPrecision(3))} nm`;
  return length >= 1000 ? `${length / 1000} mm` : `${length} µm`;
}

/** The most important facts on a line. */
export function briefWords({ about }, status, age) {
  const model = about.headers.restored?.model;
  const parts = [`sequence ${about.sequence}`, age, `skipped ${status.skipped}`, `made up later ${status.backfilled}`];
  if (status.missed) parts.push(`not heard here ${status.missed}`);
  if (model) parts.push(`${model.name} on ${model.device}`);
  return parts.join("  ·  ");
}

/** Rows of the table of facts: name, value, and whether it is an alarm. */
export function factRows(shown, status, age) {
  const { about } = shown;
  const header = about.headers.restored ?? about.headers.raw;
  const model = about.headers.restored?.model;
  const voxel = header?.voxel_size_um;
  const light = header?.light;
  const rows = [
    ["acquisition", about.acquisition],
    ["position", about.position],
    ["time", String(about.time)],
    ["sequence", String(about.sequence) + (header?.backfill ? " (restored late)" : "")],
    ["age", age],
    ["volume", header ? `${header.shape.join(" × ")} ${header.type}` : "–"],
    ["voxel", voxel ? `${voxel.map(short).join(" × ")} µm` : "size unknown"],
    ["received", String(status.received)],
    ["skipped", String(status.skipped), status.skipped > 0],
    ["made up later", String(status.backfilled)],
  ];
  if (status.missed) rows.push(["not heard here", String(status.missed), true]);
  if (model) {
    rows.push(["model", model.name], ["device", `${model.device}, ${model.precision}`]);
    if (model.remark) rows.push(["remark", model.remark, true]);
  }
  if (header?.missing.length) rows.push(["missing", `planes ${header.missing.join(", ")}`, true]);
  if (header?.exposure_ms) rows.push(["exposure", `${short(header.exposure_ms)} ms`]);
  if (light?.total) {
    const share = light.of_own === null ? "" : ` (${Math.round(100 * light.of_own)} % of your light)`;
    rows.push(["dose so far", `${short(light.total)} ${light.unit}${share}`]);
  }
  const last = status.last_skipped;
  if (last) rows.push(["last skipped", `time ${last.time}, ${last.channel || "volume"}: ${last.reason}`, true]);
  if (status.source) rows.push(["source", status.source]);
  return rows;
}
