/**
 * Protobuf, as far as the wire needs it: readers and writers of single values, and messages as
 * tables of fields.
 *
 * A 64-bit number is read as a number, which is exact below 2^53 (PROTOCOL 2.1); a greater one is
 * refused and never rounded.
 */

/** Bytes that are no message. */
export class WireError extends Error {
  override name = "WireError";
}

const TWO_32 = 2 ** 32;
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Texts by name; without a prototype, so that any name is one. */
export type Texts = Record<string, string>;

/** Return text as UTF-8. */
export function utf8(text: string): Uint8Array {
  return encoder.encode(text);
}

/** Return the bytes of all parts. */
export function concat(parts: Uint8Array[]): Uint8Array<ArrayBuffer> {
  const joined = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

/** Grows a message byte by byte. */
export class Writer {
  #bytes = new Uint8Array(128);
  #size = 0;

  /** Leave room for a length in front, which finishFrame() writes. */
  skip(size: number): void {
    this.#size += size;
  }

  /** Add a whole number, 0 or more and below 2^53. */
  varint(value: number): void {
    this.#reserve(8);
    while (value >= 0x80) {
      this.#bytes[this.#size++] = (value % 0x80) | 0x80;
      value = Math.floor(value / 0x80);
    }
    this.#bytes[this.#size++] = value;
  }

  /** Add bytes behind their length. */
  bytes(value: Uint8Array): void {
    this.varint(value.length);
    this.#reserve(value.length);
    this.#bytes.set(value, this.#size);
    this.#size += value.length;
  }

  /** Return what was written. */
  finish(): Uint8Array {
    return this.#bytes.subarray(0, this.#size);
  }

  /** Return what was written behind skip(4) as a frame (PROTOCOL 1.3). */
  finishFrame(): Uint8Array {
    new DataView(this.#bytes.buffer).setUint32(0, this.#size - 4);
    return this.finish();
  }

  #reserve(size: number): void {
    const needed = this.#size + size;
    if (needed > this.#bytes.length) {
      const grown = new Uint8Array(Math.max(needed, 2 * this.#bytes.length));
      grown.set(this.#bytes.subarray(0, this.#size));
      this.#bytes = grown;
    }
  }
}

/** Reads a message value by value. */
export class Reader {
  #at = 0;
  #low = 0;
  #high = 0;

  constructor(readonly data: Uint8Array) {}

  get isAtEnd(): boolean {
    return this.#at >= this.data.length;
  }

  /** Read a tag: field number and wire type. */
  tag(): number {
    const tag = this.uint64();
    if (tag < 8 || tag >= TWO_32) throw new WireError("a field without a number");
    return tag;
  }

  uint64(): number {
    this.#varint();
    return this.#safe(this.#high >>> 0);
  }

  int64(): number {
    this.#varint();
    return this.#safe(this.#high | 0);
  }

  int32(): number {
    this.#varint();
    return this.#low | 0;
  }

  uint32(): number {
    this.#varint();
    return this.#low >>> 0;
  }

  bool(): boolean {
    this.#varint();
    return (this.#low | this.#high) !== 0;
  }

  /** Read bytes behind their length; they are a view of the message. */
  bytes(): Uint8Array {
    return this.#take(this.uint64());
  }

  text(): string {
    try {
      return decoder.decode(this.bytes());
    } catch (error) {
      if (error instanceof WireError) throw error;
      throw new WireError("a text is no UTF-8");
    }
  }

  /** Pass over the value behind a tag. */
  pass(tag: number): void {
    switch (tag & 7) {
      case 0:
        this.#varint();
        return;
      case 1:
        this.#take(8);
        return;
      case 2:
        this.bytes();
        return;
      case 5:
        this.#take(4);
        return;
    }
    throw new WireError(`wire type ${tag & 7}`); // a group: nothing of this protocol has one
  }

  #take(size: number): Uint8Array {
    const end = this.#at + size;
    if (end > this.data.length) throw new WireError("a message is cut off");
    const taken = this.data.subarray(this.#at, end);
    this.#at = end;
    return taken;
  }

  #varint(): void {
    let low = 0;
    let high = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = this.data[this.#at++];
      if (byte === undefined) throw new WireError("a message is cut off");
      const bits = byte & 0x7f;
      if (shift < 28) {
        low |= bits << shift;
      } else if (shift === 28) {
        low |= bits << 28;
        high = bits >> 4;
      } else {
        high |= bits << (shift - 32);
      }
      if (byte < 0x80) {
        this.#low = low;
        this.#high = high;
        return;
      }
    }
    throw new WireError("a number of more than 64 bits");
  }

  #safe(high: number): number {
    const value = high * TWO_32 + (this.#low >>> 0);
    if (!Number.isSafeInteger(value)) throw new WireError("a number of 2^53 or more");
    return value;
  }
}

/** One field of a message. */
interface Field<T> {
  tag: number;
  empty(): T;
  /** Read a value; one that repeats takes the earlier one's place, or is merged into it. */
  read(reader: Reader, earlier: T): T;
  /** Write the value with its tag. */
  write(writer: Writer, value: T): void;
}

/** A message's fields, by their names. */
type Fields<T> = { readonly [K in keyof T]: Field<T[K]> };

function numberField(number: number, read: (reader: Reader) => number): Field<number> {
  const tag = number << 3;
  return {
    tag,
    empty: () => 0,
    read,
    write: (writer, value) => {
      writer.varint(tag);
      writer.varint(value);
    },
  };
}

// Negative numbers are only read: a client writes none.
export const int32 = (number: number) => numberField(number, (reader) => reader.int32());
export const uint32 = (number: number) => numberField(number, (reader) => reader.uint32());
export const int64 = (number: number) => numberField(number, (reader) => reader.int64());
export const uint64 = (number: number) => numberField(number, (reader) => reader.uint64());

export function bool(number: number): Field<boolean> {
  const tag = number << 3;
  return {
    tag,
    empty: () => false,
    read: (reader) => reader.bool(),
    write: (writer) => {
      writer.varint(tag);
      writer.varint(1);
    },
  };
}

function sized<T>(
  number: number,
  field: Pick<Field<T>, "empty" | "read"> & { bytes(value: T): Uint8Array },
): Field<T> {
  const tag = (number << 3) | 2;
  return {
    ...field,
    tag,
    write: (writer, value) => {
      writer.varint(tag);
      writer.bytes(field.bytes(value));
    },
  };
}

export const text = (number: number) =>
  sized<string>(number, {
    empty: () => "",
    read: (reader) => reader.text(),
    bytes: utf8,
  });

export const bytes = (number: number) =>
  sized<Uint8Array>(number, {
    empty: () => new Uint8Array(0),
    read: (reader) => reader.bytes(),
    bytes: (value) => value,
  });

/** A message within a message, null where it is absent. */
export const nested = <T extends object>(number: number, message: Message<T>) =>
  sized<T | null>(number, {
    empty: () => null,
    read: (reader, earlier) => message.decode(reader.bytes(), earlier ?? message.make({})),
    bytes: (value) => message.encode(value ?? {}),
  });

export function texts(number: number): Field<Texts> {
  const tag = (number << 3) | 2;
  return {
    tag,
    empty: () => Object.create(null) as Texts,
    read: (reader, earlier) => {
      const { key, value } = ENTRY.decode(reader.bytes());
      earlier[key] = value;
      return earlier;
    },
    write: (writer, value) => {
      for (const key of Object.keys(value)) {
        writer.varint(tag);
        writer.bytes(ENTRY.encode({ key, value: value[key] ?? "" }));
      }
    },
  };
}

/** A message's table of fields: what encodes and decodes it. */
export class Message<T extends object> {
  readonly #names: (keyof T & string)[];
  readonly #byTag = new Map<number, keyof T & string>();

  constructor(readonly fields: Fields<T>) {
    this.#names = Object.keys(fields) as (keyof T & string)[];
    for (const name of this.#names) this.#byTag.set(fields[name].tag, name);
  }

  /** Return a whole message of some values. */
  make(values: Partial<T>): T {
    const message = {} as T;
    for (const name of this.#names) message[name] = values[name] ?? this.fields[name].empty();
    return message;
  }

  /** Return the bytes of a message; what it leaves out is absent. */
  encode(values: Partial<T>): Uint8Array {
    const writer = new Writer();
    this.write(writer, values);
    return writer.finish();
  }

  /** Add a message's fields to a writer. */
  write(writer: Writer, values: Partial<T>): void {
    for (const name of this.#names) {
      const value = values[name];
      // Absent, or what an absent field is read as.
      if (value && (value as { length?: number }).length !== 0) {
        this.fields[name].write(writer, value);
      }
    }
  }

  /**
   * Return the message that bytes spell, on top of an earlier part of it.
   *
   * @throws {WireError} They spell none.
   */
  decode(data: Uint8Array, message: T = this.make({})): T {
    const reader = new Reader(data);
    while (!reader.isAtEnd) {
      const tag = reader.tag();
      const name = this.#byTag.get(tag);
      if (name === undefined) {
        reader.pass(tag);
      } else {
        message[name] = this.fields[name].read(reader, message[name]);
      }
    }
    return message;
  }
}

const ENTRY = new Message<{ key: string; value: string }>({ key: text(1), value: text(2) });
