/**
 * A scripted gateway over WebSocket for the tests: it speaks protobufjs, so that what the client
 * writes is read by another codec. And the client's surroundings: a clock that the test advances.
 */

import { once } from "node:events";
import { fileURLToPath } from "node:url";
import protobuf from "protobufjs";
import { WebSocket, WebSocketServer } from "ws";
import { Client } from "../dist/index.js";

const schema = fileURLToPath(new URL("../../../protos/message.proto", import.meta.url));
export const proto = (await protobuf.load(schema)).lookup("gatesvr.proto");

export const Type = { START: 1, STOP: 2, HEARTBEAT: 3, BUSINESS: 4, ACK: 5, AUTH: 7 };
const Push = {
  START_RESP: 1,
  HEARTBEAT_RESP: 2,
  BUSINESS_DATA: 3,
  ERROR: 4,
  GOAWAY: 5,
  KICK: 6,
  SKIP: 7,
  AUTH_RESP: 8,
};

export function encode(name, fields) {
  const type = proto.lookupType(name);
  return type.encode(type.fromObject(fields)).finish();
}

/** Return a message with plain numbers, absent fields at their defaults. */
export function decode(name, bytes) {
  const type = proto.lookupType(name);
  return type.toObject(type.decode(bytes), { longs: Number, defaults: true, bytes: Uint8Array });
}

export function frame(fields) {
  const body = encode("ServerPush", fields);
  const bytes = new Uint8Array(4 + body.length);
  new DataView(bytes.buffer).setUint32(0, body.length);
  bytes.set(body, 4);
  return bytes;
}

/** Resolves when check() holds; the test runner's own time-out is the deadline. */
export async function until(check) {
  for (let looks = 0; ; looks++) {
    const value = await check();
    if (value) return value;
    // What takes longer is another process's, which wants the processor.
    await new Promise((wake) => (looks < 100 ? setImmediate(wake) : setTimeout(wake, 5)));
  }
}

/** What is pushed and not taken yet; take() waits for the next. */
class Inbox {
  #items = [];
  #takers = [];

  put(item) {
    const taker = this.#takers.shift();
    if (taker) taker(item);
    else this.#items.push(item);
  }

  take() {
    if (this.#items.length) return Promise.resolve(this.#items.shift());
    return new Promise((resolve) => this.#takers.push(resolve));
  }

  get length() {
    return this.#items.length;
  }
}

/** One connection of the client, as the gateway sees it. */
export class Connection {
  requests = new Inbox();
  messages = 0;

  constructor(socket) {
    this.socket = socket;
    this.closed = once(socket, "close").then(([code, reason]) => ({ code, reason: `${reason}` }));
    socket.on("message", (data, isBinary) => {
      this.messages++;
      if (!isBinary) throw new Error("the client sent text");
      for (let at = 0; at < data.length;) {
        const size = data.readUInt32BE(at);
        const request = decode("ClientRequest", data.subarray(at + 4, at + 4 + size));
        if (at + 4 + size > data.length) throw new Error("a frame spans messages");
        at += 4 + size;
        const inner = {
          [Type.START]: "StartRequest",
          [Type.STOP]: "StopRequest",
          [Type.HEARTBEAT]: "HeartbeatRequest",
          [Type.BUSINESS]: "BusinessRequest",
          [Type.ACK]: "ClientAck",
          [Type.AUTH]: "AuthRequest",
        }[request.type];
        this.requests.put({ ...request, body: decode(inner, request.payload) });
      }
    });
  }

  /** Return the next request, which is of a type. */
  async take(type) {
    const request = await this.requests.take();
    if (request.type !== type)
      throw new Error(`type ${request.type}, not ${type}: ${JSON.stringify(request)}`);
    return request;
  }

  /** Return the next request of a type; drop the others before it. */
  async find(type) {
    for (;;) {
      const request = await this.requests.take();
      if (request.type === type) return request;
    }
  }

  send(...frames) {
    this.socket.send(Buffer.concat(frames));
  }

  push(type, name, fields, envelope = {}) {
    this.send(frame({ type, payload: encode(name, fields), ...envelope }));
  }

  started(start, fields = {}) {
    const response = {
      success: true,
      sessionId: "s1",
      connectionId: "s1",
      protocol: 1,
      resumeToken: Buffer.from(`token-${this.number}`),
      heartbeatInterval: 15,
      capabilities: 1,
      maxInFlight: 128,
      maxMessageBytes: 1 << 20,
      maxUnackedMessages: 1024,
      maxUnackedBytes: 4 << 20,
      ...fields,
    };
    this.push(Push.START_RESP, "StartResponse", response, { msgId: start.msgId });
  }

  refuse(start, code, message, fields = {}) {
    const response = {
      success: false,
      error: { errorCode: code, errorMessage: message },
      ...fields,
    };
    this.push(Push.START_RESP, "StartResponse", response, { msgId: start.msgId });
  }

  answer(request, seq, { code = 200, message = "", data = "" } = {}) {
    const fields = { code, message, data: Buffer.from(data) };
    const envelope = { msgId: request.msgId, seqId: seq, clientSeqId: request.seqId };
    this.push(Push.BUSINESS_DATA, "BusinessResponse", fields, envelope);
  }

  error(request, seq, code, fields = {}) {
    const envelope = { msgId: request.msgId, seqId: seq, clientSeqId: request.seqId };
    this.push(
      Push.ERROR,
      "ErrorMessage",
      { errorCode: code, errorMessage: "no", ...fields },
      envelope,
    );
  }

  notifyFrame(seq, title = `n${seq}`) {
    const payload = encode("BusinessResponse", {
      code: 200,
      message: title,
      data: Buffer.from(title),
    });
    return frame({
      type: Push.BUSINESS_DATA,
      seqId: seq,
      payload,
      headers: { msg_type: "test", title },
    });
  }

  notify(seq, title) {
    this.send(this.notifyFrame(seq, title));
  }

  skip(fromSeq, seq, reason = 1) {
    this.push(Push.SKIP, "Skip", { fromSeq, messages: seq - fromSeq + 1, reason }, { seqId: seq });
  }

  heartbeat(request) {
    const fields = { clientTimestamp: request.body.clientTimestamp, serverTimestamp: 1 };
    this.push(Push.HEARTBEAT_RESP, "HeartbeatResponse", fields, { msgId: request.msgId });
  }

  goaway(reason, reconnectAfterMs = 0, address = "") {
    this.push(Push.GOAWAY, "GoAway", { reason, reconnectAfterMs, address });
  }

  kick(code, reason) {
    this.push(Push.KICK, "Kick", { code, reason });
  }

  auth(request, fields) {
    this.push(Push.AUTH_RESP, "AuthResponse", fields, { msgId: request.msgId });
  }

  close(code, reason = "") {
    this.socket.close(code || 1000, reason);
  }

  /** Cut the connection without a word. */
  cut() {
    this.socket.terminate();
  }
}

export class Gateway {
  #connections = new Inbox();
  count = 0;

  static async open(options = {}) {
    const gateway = new Gateway();
    gateway.server = new WebSocketServer({
      host: "127.0.0.1",
      port: 0,
      path: "/gatesvr",
      handleProtocols: () => "gatesvr",
      ...options,
    });
    gateway.server.on("connection", (socket) => {
      const connection = new Connection(socket);
      connection.number = ++gateway.count;
      gateway.#connections.put(connection);
    });
    await once(gateway.server, "listening");
    gateway.url = `http://127.0.0.1:${gateway.server.address().port}/gatesvr`;
    return gateway;
  }

  /** Return the client's next connection. */
  next() {
    return this.#connections.take();
  }

  get waiting() {
    return this.#connections.length;
  }

  close() {
    for (const socket of this.server.clients) socket.terminate();
    return new Promise((resolve) => this.server.close(resolve));
  }
}

/** Time that passes when the test says so. */
export class Clock {
  #now = 1_000;
  #timers = new Map();
  #next = 1;
  #depth = 0;
  /** How many timers one after the other have set the newest one, itself included. */
  depth = 0;

  now = () => this.#now;
  date = () => 1_700_000_000_000 + this.#now;
  random = () => 0.5;
  setTimer = (call, ms) => {
    const depth = (this.depth = this.#depth + 1);
    const ring = () => {
      this.#depth = depth;
      call();
      queueMicrotask(() => (this.#depth = 0));
    };
    this.#timers.set(this.#next, { at: this.#now + Math.max(0, ms), call: ring });
    return this.#next++;
  };
  clearTimer = (timer) => {
    this.#timers.delete(timer);
  };

  /** Let time pass: timers ring in their order, each followed by what it set off. */
  async advance(ms) {
    const end = this.#now + ms;
    for (;;) {
      await new Promise(setImmediate);
      const due = [...this.#timers]
        .filter(([, { at }]) => at <= end)
        .sort((a, b) => a[1].at - b[1].at);
      if (!due.length) break;
      const [timer, { at, call }] = due[0];
      this.#timers.delete(timer);
      this.#now = Math.max(this.#now, at);
      call();
    }
    this.#now = end;
  }

  /** Let time pass without a timer, as when the page is frozen; they are late then. */
  sleep(ms) {
    this.#now += ms;
  }

  /** Let time pass by steps until something has happened. */
  async until(check, step = 50) {
    for (let value; ; await this.advance(step)) if ((value = await check())) return value;
  }

  /** Let time pass by steps until a promise has settled; return its value. */
  async settle(promise, step = 50) {
    let isDone = false;
    const done = () => (isDone = true);
    promise.then(done, done);
    await this.until(() => isDone, step);
    return promise;
  }
}

/** A gateway, a clock and a client that is not connected yet, all ended with the test. */
export async function setUp(t, options = {}) {
  const gateway = await Gateway.open();
  const clock = new Clock();
  const client = new Client(gateway.url, {
    openid: "ann",
    WebSocket,
    environment: { ...clock },
    ...options,
  });
  t.after(async () => {
    const closed = client.close();
    await gateway.close();
    await clock.settle(closed);
  });
  return { gateway, clock, client };
}

/** As setUp(), with the client logged in: server seq 1 is the login's answer. */
export async function setUpLoggedIn(t, options = {}, fields = {}) {
  const all = await setUp(t, options);
  const connecting = all.client.connect();
  connecting.catch(() => undefined);
  const connection = await all.gateway.next();
  const start = await connection.take(Type.START);
  connection.started(start, fields);
  const hello = await connection.take(Type.BUSINESS);
  connection.answer(hello, 1);
  await connecting;
  return { ...all, connection, start, hello };
}

/** Let the client resume on its next connection; return that and its START. */
export async function resume({ gateway, clock }, fields = {}) {
  const connection = await clock.settle(gateway.next());
  const start = await connection.take(Type.START);
  connection.started(start, { resumed: true, state: 2, maxClientSeq: 1, generation: 2, ...fields });
  return { connection, start };
}
