/** WebTransport before WebSocket: raced, the loser is closed, and what won goes first again. */

import assert from "node:assert/strict";
import test from "node:test";
import { WebSocket } from "ws";
import { Client, ConnectionFailed } from "../dist/index.js";
import { openFirst } from "../dist/race.js";
import { Clock, Connection, Gateway, Type, resume, until } from "./gateway.mjs";

/** A WebTransport as browsers have it, whose other end is the scripted gateway's. */
function network() {
  const sessions = [];
  class Session {
    constructor(url, options) {
      Object.assign(this, { url, options, isClosed: false });
      this.ready = new Promise((resolve, reject) =>
        Object.assign(this, { open: resolve, refuse: reject }),
      );
      this.closed = new Promise((resolve, reject) =>
        Object.assign(this, { end: resolve, break: reject }),
      );
      this.ready.catch(() => undefined);
      this.closed.catch(() => undefined);
      sessions.push(this);
    }

    async createBidirectionalStream() {
      const own = this;
      const gateway = Object.assign(new EventTarget(), { terminate() {} });
      const listeners = new Map();
      gateway.on = (kind, listener) => listeners.set(kind, listener);
      gateway.once = gateway.addListener = gateway.on;
      this.readable = new ReadableStream({ start: (controller) => (this.toClient = controller) });
      const writable = new WritableStream({
        write: (data) => listeners.get("message")(Buffer.from(data), true),
        close: () => (this.hasRead = true),
      });
      gateway.send = (data) => own.toClient.enqueue(new Uint8Array(data));
      this.connection = new Connection(gateway);
      this.connection.number = 1;
      return { readable: this.readable, writable };
    }

    close(info = {}) {
      this.isClosed = info;
      this.refuse(new Error("closed"));
      this.end(info);
    }
  }
  return { sessions, Session };
}

async function setUp(t, options = {}) {
  const gateway = await Gateway.open();
  const clock = new Clock();
  const { sessions, Session } = network();
  // The scripted gateway has no TLS: WebSocket goes to it where WebTransport would.
  class Plain extends WebSocket {
    constructor(url, protocols) {
      super(url.replace("wss:", "ws:"), protocols);
    }
  }
  const client = new Client(gateway.url.replace("http:", "https:"), {
    openid: "ann",
    WebSocket: Plain,
    WebTransport: Session,
    environment: { ...clock },
    ...options,
  });
  t.after(async () => {
    const closed = client.close();
    await gateway.close();
    await clock.settle(closed);
  });
  return { gateway, clock, sessions, client };
}

async function logIn(connection) {
  connection.started(await connection.take(Type.START));
  connection.answer(await connection.take(Type.BUSINESS), 1);
}

test("WebTransport carries the session where it is up within 800 ms", async (t) => {
  const serverCertificateHashes = [{ algorithm: "sha-256", value: new ArrayBuffer(32) }];
  const { client, clock, sessions, gateway } = await setUp(t, { serverCertificateHashes });
  const connecting = client.connect();
  await clock.until(() => sessions.length === 1);
  await clock.advance(100);
  const [session] = sessions;
  assert.equal(session.url, gateway.url.replace("http:", "https:"));
  assert.equal(session.options.serverCertificateHashes, serverCertificateHashes);
  session.open();
  await until(() => session.connection);
  await logIn(session.connection);
  await connecting;
  assert.equal(client.transport, "webtransport");
  await clock.advance(2_000);
  assert.equal(gateway.waiting, 0);
  session.connection.notify(2);
  assert.equal((await client.notifies().next()).value.serverSeq, 2);
  const answer = client.request("a");
  session.connection.answer(await session.connection.find(Type.BUSINESS), 3, { data: "A" });
  assert.equal((await answer).text, "A");
});

test("WebSocket starts after 800 ms, and the loser is closed", async (t) => {
  const { client, clock, sessions, gateway } = await setUp(t);
  const connecting = client.connect();
  await clock.advance(799);
  assert.equal(gateway.waiting + gateway.count, 0);
  await clock.advance(1);
  const connection = await gateway.next();
  await logIn(connection);
  await connecting;
  assert.equal(client.transport, "websocket");
  assert.ok(sessions[0].isClosed);
  // On the same network WebSocket goes first from then on.
  connection.cut();
  await resume({ gateway, clock });
  assert.equal(sessions.length, 1);
});

test("WebSocket starts at once where WebTransport fails at once", async (t) => {
  const { client, sessions, gateway } = await setUp(t);
  const connecting = client.connect();
  await until(() => sessions.length === 1);
  sessions[0].refuse(new Error("no UDP here"));
  await logIn(await gateway.next()); // without time
  await connecting;
  assert.equal(client.transport, "websocket");
});

test("a WebSocket that has begun beside it is closed where WebTransport comes first", async (t) => {
  const sockets = [];
  class Never {
    constructor() {
      sockets.push(this);
    }

    close() {
      this.isClosed = true;
    }
  }
  const { client, clock, sessions } = await setUp(t, { WebSocket: Never });
  const connecting = client.connect();
  await clock.advance(800);
  assert.equal(sockets.length, 1);
  sessions[0].open();
  await until(() => sessions[0].connection);
  await logIn(sessions[0].connection);
  await connecting;
  assert.equal(client.transport, "webtransport");
  assert.ok(sockets[0].isClosed);
});

test("a session is resumed from one way on the other", async (t) => {
  const { client, clock, sessions, gateway } = await setUp(t);
  const connecting = client.connect();
  await until(() => sessions.length === 1);
  sessions[0].open();
  await until(() => sessions[0].connection);
  await logIn(sessions[0].connection);
  await connecting;
  sessions[0].toClient.error(new Error("gone"));
  sessions[0].break(new Error("gone"));
  await clock.until(() => sessions.length === 2);
  sessions[1].refuse(new Error("no UDP any more"));
  const { start } = await resume({ gateway, clock });
  assert.equal(start.body.sessionId, "s1");
  await clock.until(() => client.state === "connected");
  assert.equal(client.transport, "websocket");
});

test("a kick over WebTransport: the push, FIN, then the close with its code", async (t) => {
  const { client, sessions } = await setUp(t);
  const kicks = [];
  client.on("kicked", (kick) => kicks.push(kick.reason));
  const connecting = client.connect();
  await until(() => sessions.length === 1);
  sessions[0].open();
  await until(() => sessions[0].connection);
  await logIn(sessions[0].connection);
  await connecting;
  sessions[0].connection.kick(1001, "bye");
  sessions[0].toClient.close();
  await until(() => sessions[0].hasRead);
  sessions[0].end({ closeCode: 4410, reason: "kicked" });
  await until(() => client.state === "closed");
  assert.deepEqual(kicks, ["bye"]);
});

test("a stream that ends without a close is given up after 2 s", async (t) => {
  const { client, clock, sessions } = await setUp(t);
  const connecting = client.connect();
  await until(() => sessions.length === 1);
  sessions[0].open();
  await until(() => sessions[0].connection);
  await logIn(sessions[0].connection);
  await connecting;
  sessions[0].toClient.close();
  await clock.advance(100);
  assert.equal(client.state, "connected");
  await clock.advance(2_000);
  assert.ok(sessions[0].isClosed);
});

test("without TLS, or where the platform has none, there is only WebSocket", async (t) => {
  const { gateway, clock, sessions } = await setUp(t);
  const { Session } = network();
  for (const options of [
    { WebTransport: Session },
    { WebTransport: null },
    { transports: ["websocket"] },
  ]) {
    const client = new Client(gateway.url, {
      openid: "ann",
      WebSocket,
      environment: { ...clock },
      ...options,
    });
    const connecting = client.connect();
    await logIn(await gateway.next());
    await connecting;
    await client.suspend();
  }
  assert.equal(sessions.length, 0);
  const none = new Client(gateway.url, {
    openid: "ann",
    transports: ["webtransport"],
    environment: { ...clock },
  });
  await assert.rejects(clock.settle(none.connect()), /no transport/);
});

test("where no way comes up, the error has the reason of each", async () => {
  const failing = (why) => () => Promise.reject(new ConnectionFailed(why));
  const opening = openFirst(
    [failing("no UDP"), failing("no TCP")],
    new Clock(),
    1_000,
    new AbortController().signal,
  );
  await assert.rejects(opening, { message: "no UDP; no TCP" });
});
