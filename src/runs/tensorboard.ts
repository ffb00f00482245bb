import protobuf from "protobufjs/light.js";
import type { Log } from "../files/append-file.ts";

/** The parts of TensorFlow's event.proto and summary.proto that scalars need. */
const { Event } = (() => {
  const { Field, Type } = protobuf;
  const value = new Type("Value").add(new Field("tag", 1, "string")).add(new Field("simpleValue", 2, "float"));
  const summary = new Type("Summary").add(value).add(new Field("value", 1, "Value", "repeated"));
  const event = new Type("Event")
    .add(summary)
    .add(new Field("wallTime", 1, "double"))
    .add(new Field("step", 2, "int64"))
    .add(new Field("fileVersion", 3, "string"))
    .add(new Field("summary", 5, "Summary"));
  return { Event: event };
})();

/** CRC-32C (Castagnoli, reflected polynomial 0x82f63b78), a byte at a time. */
const crcTable = Uint32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc;
});

/** CRC-32C of bytes, unsigned. */
export const crc32c = (bytes: Uint8Array): number => {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = crcTable[(crc ^ byte) & 0xff]! ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
};

/** TFRecord stores checksums rotated and shifted by a constant, lest a record of records confuse readers. */
const masked = (bytes: Uint8Array): number => {
  const crc = crc32c(bytes);
  return (((crc >>> 15) | (crc << 17)) + 0xa282ead8) >>> 0;
};

/** A TFRecord: length, its checksum, the data, their checksum. */
const frame = (data: Uint8Array): Uint8Array => {
  const record = Buffer.alloc(data.length + 16);
  record.writeBigUInt64LE(BigInt(data.length));
  record.writeUInt32LE(masked(record.subarray(0, 8)), 8);
  record.set(data, 12);
  record.writeUInt32LE(masked(data), 12 + data.length);
  return record;
};

/** Name of the event file in a run folder; TensorBoard looks for `tfevents` in it. */
export const eventFile = "tensorboard/events.out.tfevents.advcl";

/** Writes scalars for TensorBoard, a record each step. Records are of the same length whatever the clock says. */
export class TensorBoardWriter {
  readonly #file: Log;
  readonly #now: () => number;

  /**
   * @param file a new event file, or one to go on with
   * @param now milliseconds since 1970, for the time that TensorBoard shows
   */
  constructor(file: Log, now: () => number = Date.now) {
    this.#file = file;
    this.#now = now;
    if (file.size === 0) this.#append({ fileVersion: "brain.Event:2" });
  }

  /** Scalars of a step, by tag. */
  write(step: number, scalars: Readonly<Record<string, number>>): void {
    const value = Object.entries(scalars).map(([tag, simpleValue]) => ({ tag, simpleValue }));
    this.#append({ step, summary: { value } });
  }

  #append(event: object): void {
    this.#file.append(frame(Event.encode({ wallTime: this.#now() / 1000, ...event } as never).finish()));
  }
}
