/** Several files as one tar archive (POSIX 2001), made of slices of the files: nothing is read into memory. */
import { pathOf } from "./dropped.js";

const BLOCK = 512;
const encode = (/** @type {string} */ text) => new TextEncoder().encode(text);

/**
 * @param {File[]} files
 * @param {string} name  of the archive
 */
export function tarOf(files, name) {
  /** @type {BlobPart[]} */
  const parts = [];
  for (const file of files) {
    const path = pathOf(file);
    if (encode(path).length > 100) {
      const record = pax("path", path);
      parts.push(header("pax", record.length, "x"), record, padding(record.length));
    }
    parts.push(header(path, file.size, "0"), file, padding(file.size));
  }
  parts.push(new Uint8Array(2 * BLOCK));
  return new File(parts, name, { type: "application/x-tar" });
}

/** `"27 path=folder/recording.wav\n"`, whose number counts its own digits. */
function pax(key, value) {
  const rest = encode(` ${key}=${value}\n`);
  let length = rest.length;
  while (length !== rest.length + String(length).length) length = rest.length + String(length).length;
  return encode(`${length} ${key}=${value}\n`);
}

/** @param {string} path @param {number} size @param {string} type */
function header(path, size, type) {
  const block = new Uint8Array(BLOCK);
  const put = (/** @type {string} */ text, /** @type {number} */ at, /** @type {number} */ most) => block.set(encode(text).slice(0, most), at);
  const octal = (/** @type {number} */ value, /** @type {number} */ digits) => value.toString(8).padStart(digits, "0");
  put(path, 0, 100);
  put(octal(0o644, 7), 100, 8);
  put(octal(0, 7), 108, 8);
  put(octal(0, 7), 116, 8);
  if (size < 8 ** 11) put(octal(size, 11), 124, 12);
  else sizeInBinary(block, size);
  put(octal(0, 11), 136, 12);
  put(" ".repeat(8), 148, 8);
  put(type, 156, 1);
  put("ustar\0" + "00", 257, 8);
  put(`${octal(block.reduce((sum, byte) => sum + byte, 0), 6)}\0 `, 148, 8);
  return block;
}

/** Sizes of 8 GiB and more, as GNU tar writes them. @param {Uint8Array<ArrayBuffer>} block @param {number} size */
function sizeInBinary(block, size) {
  const view = new DataView(block.buffer);
  view.setUint32(124, 0x80000000);
  view.setBigUint64(128, BigInt(size));
}

/** @param {number} size */
const padding = (size) => new Uint8Array((BLOCK - (size % BLOCK)) % BLOCK);
