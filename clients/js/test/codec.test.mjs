/** The codec against protobufjs: the same bytes, the same messages, and garbage refused. */

import assert from "node:assert/strict";
import test from "node:test";
import * as messages from "../dist/messages.js";
import { Reader, WireError, Writer } from "../dist/wire.js";
import { decode, encode, frame, proto } from "./gateway.mjs";

/** Each of our messages by ours and by the schema's names of its fields. */
const NAMES = {
  ClientRequest: {
    msgId: "msgId",
    seq: "seqId",
    type: "type",
    payload: "payload",
    headers: "headers",
    ackSeq: "ackSeqId",
  },
  ServerPush: {
    msgId: "msgId",
    seq: "seqId",
    type: "type",
    payload: "payload",
    headers: "headers",
    clientSeq: "clientSeqId",
  },
  StartRequest: {
    openid: "openid",
    clientId: "clientId",
    authToken: "authToken",
    lastAckedSeq: "lastAckedSeqId",
    sessionId: "sessionId",
    resumeToken: "resumeToken",
    attempt: "attempt",
    protocol: "protocol",
    capabilities: "capabilities",
    maxMessageBytes: "maxMessageBytes",
  },
  ErrorMessage: {
    code: "errorCode",
    message: "errorMessage",
    detail: "detail",
    retryAfterMs: "retryAfterMs",
    outcome: "outcome",
  },
  StartResponse: {
    success: "success",
    heartbeatInterval: "heartbeatInterval",
    connectionId: "connectionId",
    sessionId: "sessionId",
    resumeToken: "resumeToken",
    resumed: "resumed",
    replayFrom: "replayFrom",
    lostReason: "lostReason",
    maxClientSeq: "maxClientSeq",
    maxMessageBytes: "maxMessageBytes",
    maxInFlight: "maxInFlight",
    attempt: "attempt",
    state: "state",
    maxUnackedMessages: "maxUnackedMessages",
    maxUnackedBytes: "maxUnackedBytes",
    authExpiresAtMs: "authExpiresAtMs",
  },
  AuthRequest: { authToken: "authToken" },
  AuthResponse: { success: "success", expiresAtMs: "expiresAtMs" },
  StopRequest: { reason: "reason" },
  HeartbeatRequest: { clientMs: "clientTimestamp" },
  HeartbeatResponse: { clientMs: "clientTimestamp", serverMs: "serverTimestamp" },
  BusinessRequest: { action: "action", params: "params", data: "data" },
  BusinessResponse: { code: "code", message: "message", data: "data" },
  ClientAck: { ackedSeq: "ackedSeqId" },
  Skip: { fromSeq: "fromSeq", messages: "messages", reason: "reason" },
  GoAway: { reason: "reason", reconnectAfterMs: "reconnectAfterMs", address: "address" },
  Kick: { code: "code", reason: "reason" },
};

let seed = 7;
function random(below) {
  seed = (seed * 1103515245 + 12345) % 2 ** 31;
  return seed % below;
}
const TEXTS = ["", "a", "grüße 🎉", "\ufeffbom", "x".repeat(300), "__proto__"];
const NUMBERS = {
  uint64: [0, 1, 127, 128, 2 ** 31, 2 ** 32, 2 ** 53 - 1],
  int64: [0, 1, 2 ** 40, 2 ** 53 - 1],
  uint32: [0, 1, 300, 2 ** 32 - 1],
  int32: [0, 1, 200, 2 ** 31 - 1],
};

function value(field) {
  if (field.map) {
    return Object.fromEntries(
      Array.from({ length: random(4) }, (_, at) => [`k${at}`, TEXTS[random(5)]]),
    );
  }
  if (field.type === "string") return TEXTS[random(TEXTS.length)];
  if (field.type === "bytes") return Uint8Array.from({ length: random(200) }, () => random(256));
  if (field.type === "bool") return random(2) === 1;
  if (field.resolvedType) return random(3);
  const choice = NUMBERS[field.type];
  return choice[random(choice.length)];
}

function plain(value) {
  if (value instanceof Uint8Array) return [...value];
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value));
}

for (const [name, names] of Object.entries(NAMES)) {
  test(`${name} is written and read as by protobufjs`, () => {
    const type = proto.lookupType(name);
    type.fieldsArray.forEach((field) => field.resolve());
    for (let round = 0; round < 200; round++) {
      const ours = {};
      const theirs = {};
      for (const [own, other] of Object.entries(names)) {
        ours[own] = theirs[other] = value(type.fields[other]);
      }
      // Written by us, read by them.
      const read = decode(name, messages[name].encode(ours));
      for (const [own, other] of Object.entries(names)) {
        assert.deepEqual(plain(read[other] ?? null), plain(ours[own]), `${name}.${own}`);
      }
      // Written by them, read by us.
      const back = messages[name].decode(encode(name, theirs));
      for (const own of Object.keys(names)) {
        assert.deepEqual(plain(back[own]), plain(ours[own]), `${name}.${own}`);
      }
    }
  });
}

test("every field number and type of ours is the schema's", () => {
  const WIRE = { string: 2, bytes: 2 };
  for (const [name, names] of Object.entries(NAMES)) {
    const type = proto.lookupType(name);
    for (const [own, other] of Object.entries(names)) {
      const field = type.fields[other];
      const wire = field.map ? 2 : (WIRE[field.type] ?? 0);
      assert.equal(messages[name].fields[own].tag, (field.id << 3) | wire, `${name}.${own}`);
    }
  }
});

test("a nested error, negative numbers and unknown fields are read", () => {
  const bytes = encode("StartResponse", {
    success: false,
    error: { errorCode: -5, errorMessage: "no" },
    lostFrom: 3,
    lostTo: 9,
  });
  const response = messages.StartResponse.decode(bytes);
  assert.equal(response.error.code, -5);
  assert.equal(response.error.message, "no");
  assert.equal(messages.StartResponse.decode(new Uint8Array(0)).error, null);
  const time = messages.HeartbeatResponse.decode(
    encode("HeartbeatResponse", { clientTimestamp: -12345678901 }),
  );
  assert.equal(time.clientMs, -12345678901);
  // Unknown: a fixed64, a fixed32, bytes; then a known one.
  const kick = messages.Kick.decode(
    Uint8Array.from([0x29, 1, 2, 3, 4, 5, 6, 7, 8, 0x35, 1, 2, 3, 4, 0x3a, 1, 0xff, 0x08, 0x07]),
  );
  assert.equal(kick.code, 7);
});

test("a header named __proto__ is a header", () => {
  const push = messages.ServerPush.decode(
    encode("ServerPush", {
      headers: Object.fromEntries([["a", "b"]]),
    }),
  );
  assert.equal(push.headers.a, "b");
  const entry = Uint8Array.from([0x2a, 14, 0x0a, 9, ...Buffer.from("__proto__"), 0x12, 1, 0x78]);
  assert.equal(messages.ServerPush.decode(entry)["headers"]["__proto__"], "x");
});

test("a number of 2^53 or more is refused, never rounded", () => {
  const writer = new Writer();
  writer.varint(8);
  const bytes = [...writer.finish(), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
  assert.throws(() => messages.ClientAck.decode(Uint8Array.from(bytes)), WireError);
  assert.equal(
    new Reader(Uint8Array.from([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f])).uint64(),
    2 ** 53 - 1,
  );
});

test("what is no message is refused", () => {
  for (const bytes of [
    [0x08],
    [0x08, 0x80],
    [0x12, 5, 1],
    [0x00, 1],
    [0x0f],
    [0x0b],
    [0x12, 1, 0xff],
    [0x08, ...Array(11).fill(0x80)],
    [0x12, 0xff, 0xff, 0xff, 0xff, 0x0f],
  ]) {
    assert.throws(() => messages.Kick.decode(Uint8Array.from(bytes)), WireError, String(bytes));
  }
});

test("frames are cut at every split point, and bounded", () => {
  const one = frame({ type: 3, seqId: 1, payload: Buffer.from("abc") });
  const two = frame({ type: 6, payload: Buffer.from("x") });
  const stream = Buffer.concat([one, two, one]);
  for (let at = 0; at <= stream.length; at++) {
    const decoder = new messages.PushDecoder(100);
    const seen = [];
    const take = (push) => seen.push(push.type);
    decoder.feed(stream.subarray(0, at), take);
    decoder.feed(stream.subarray(at), take);
    assert.deepEqual(seen, [3, 6, 3]);
  }
  for (const size of [0, 101, 0xffff_ffff]) {
    const head = Buffer.alloc(4);
    head.writeUInt32BE(size);
    assert.throws(() => new messages.PushDecoder(100).feed(head, () => undefined), /a frame of/);
  }
  assert.throws(
    () => new messages.PushDecoder(100).feed(Uint8Array.from([0, 0, 0, 1, 8]), () => undefined),
    /cut off/,
  );
});
