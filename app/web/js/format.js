/** Numbers and times as people read them. */
import { locale } from "./i18n.js";

/** @param {number} value @param {number} [digits] */
export const number = (value, digits = 0) =>
  new Intl.NumberFormat(locale(), { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);

/** @param {number} bytes */
export function bytes(bytes) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let place = 0;
  while (bytes >= 999.5 && place < units.length - 1) { bytes /= 1000; place += 1; }
  return `${number(bytes, place && bytes < 99.95 ? 1 : 0)} ${units[place]}`;
}

/** @param {number} ms */
export function milliseconds(ms) {
  if (ms >= 9995) return `${number(ms / 1000, 1)} s`;
  if (ms >= 999.5) return `${number(ms / 1000, 2)} s`;
  return `${number(ms, ms < 9.95 ? 1 : 0)} ms`;
}

/** @param {number} seconds */
export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const two = (/** @type {number} */ value) => String(value).padStart(2, "0");
  if (whole >= 3600) return `${Math.floor(whole / 3600)}:${two(Math.floor(whole / 60) % 60)}:${two(whole % 60)}`;
  return `${Math.floor(whole / 60)}:${two(whole % 60)}`;
}

/** A share as a percentage. @param {number} share @param {number} [digits] */
export const percent = (share, digits = 1) => `${number(100 * share, digits)} %`;

/** @param {string | number} time */
export const clock = (time) => new Date(time).toLocaleTimeString(locale(), { hour12: false });

/** @param {string | number} time */
export const date = (time) =>
  new Date(time).toLocaleString(locale(), { dateStyle: "medium", timeStyle: "short", hour12: false });
