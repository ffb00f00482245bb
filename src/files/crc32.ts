import * as zlib from "node:zlib";

const table = new Int32Array(256);
for (let n = 0; n < 256; n++) {
  let value = n;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  table[n] = value;
}

/** CRC-32 by the table, byte by byte: what `crc32` falls back on. */
export const tableCrc32 = (bytes: Uint8Array, before = 0): number => {
  let value = ~before;
  for (let i = 0; i < bytes.length; i++) value = table[(value ^ bytes[i]!) & 0xff]! ^ (value >>> 8);
  return ~value >>> 0;
};

/** Node's own since 20.15; a package for Node 20 may meet an older one. */
const native = (zlib as { crc32?: (data: Uint8Array, value?: number) => number }).crc32;

/** CRC-32 as zip and gzip have it, continued from `before`. */
export const crc32: (bytes: Uint8Array, before?: number) => number = native ?? tableCrc32;
