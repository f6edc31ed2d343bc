// Figures as text: three digits that matter, one unit, the same width from second to second.

const NONE = "–";
const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

function isMissing(value) {
  return value === null || value === undefined || Number.isNaN(value);
}

function digits(value) {
  if (value >= 100) return whole.format(value);
  return value >= 10 ? value.toFixed(1) : value.toFixed(2);
}

/** A count: 10,000. */
export function count(value) {
  return isMissing(value) ? NONE : whole.format(value);
}

/** A count in four characters at most: 41.2M. */
export function brief(value) {
  if (isMissing(value)) return NONE;
  for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e4]]) {
    if (value >= size) return digits(value / (unit === "k" ? 1e3 : size)) + unit;
  }
  return whole.format(value);
}

/** A rate a second: 0.42, 12.3, 1,180. */
export function rate(value) {
  if (isMissing(value)) return NONE;
  return value === 0 ? "0" : digits(value);
}

/** A time in seconds as its number and its unit. */
export function splitSeconds(value) {
  if (isMissing(value)) return [NONE, ""];
  if (value <= 0) return ["0", "ms"];
  if (value < 0.0009995) return [digits(value * 1e6), "µs"];
  if (value < 0.9995) return [digits(value * 1e3), "ms"];
  if (value < 99.95) return [digits(value), "s"];
  return [span(value), ""];
}

/** A short time: 1.40 ms. */
export function seconds(value) {
  const [number, unit] = splitSeconds(value);
  return unit ? `${number} ${unit}` : number;
}

/** A long time: 4m 12s, 3h 05m, 2d 4h. */
export function span(value) {
  if (isMissing(value)) return NONE;
  const total = Math.max(0, Math.floor(value));
  const two = (number) => String(number).padStart(2, "0");
  if (total < 60) return `${total}s`;
  if (total < 3600) return `${Math.floor(total / 60)}m ${two(total % 60)}s`;
  if (total < 86400) return `${Math.floor(total / 3600)}h ${two(Math.floor((total % 3600) / 60))}m`;
  return `${Math.floor(total / 86400)}d ${Math.floor((total % 86400) / 3600)}h`;
}

/** Bytes as their number and their unit. */
export function splitBytes(value) {
  if (isMissing(value)) return [NONE, ""];
  for (const [unit, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (value >= size) return [digits(value / size), unit];
  }
  return [whole.format(value), "B"];
}

/** Bytes: 412 MB. */
export function bytes(value) {
  const [number, unit] = splitBytes(value);
  return unit ? `${number} ${unit}` : number;
}

/** A moment of today: 14:03:27, with milliseconds if asked. */
export function clock(unix, withMillis = false) {
  if (isMissing(unix)) return NONE;
  const date = new Date(unix * 1000);
  const shown = date.toTimeString().slice(0, 8);
  return withMillis ? `${shown}.${String(date.getMilliseconds()).padStart(3, "0")}` : shown;
}

/** A moment with its day: 2026-03-01 14:03:27. */
export function moment(unix) {
  if (!unix) return NONE;
  const date = new Date(unix * 1000);
  const two = (number) => String(number).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${clock(unix)}`;
}

/** A value of unknown kind, for lists of settings. */
export function anything(value) {
  if (isMissing(value) || value === "") return NONE;
  if (typeof value === "boolean") return value ? "yes" : "no";
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}
