/** What a client does on one connection: START, login, requests, notifies, acks, heartbeats. */

import assert from "node:assert/strict";
import test from "node:test";
import { WebSocket } from "ws";
import {
  Client,
  ConfigError,
  ConnectionFailed,
  NotifyOverflow,
  QueueFull,
  RequestFailed,
  SessionLost,
} from "../dist/index.js";
import { Type, frame, resume, setUp, setUpLoggedIn, until } from "./gateway.mjs";

test("START says who, then hello logs in", async (t) => {
  const options = {
    clientId: "web",
    zone: "3",
    loginParams: () => ({ key: "k" }),
    loginData: "data",
  };
  const { client, connection, start, hello } = await setUpLoggedIn(t, options);
  assert.equal(start.body.openid, "ann");
  assert.equal(start.body.clientId, "web");
  assert.equal(start.body.protocol, 1);
  assert.equal(start.body.capabilities, 1);
  assert.equal(start.body.sessionId, "");
  assert.notEqual(start.msgId, 0);
  assert.equal(hello.seqId, 1);
  assert.equal(hello.body.action, "hello");
  assert.deepEqual({ ...hello.body.params }, { zone: "3", key: "k" });
  assert.equal(`${Buffer.from(hello.body.data)}`, "data");
  assert.equal(client.sessionId, "s1");
  assert.equal(client.state, "connected");
  assert.equal(client.transport, "websocket");
  assert.equal(connection.socket.protocol, "gatesvr");
});

test("a refused login fails connect()", async (t) => {
  const { client, gateway } = await setUp(t);
  const connecting = client.connect();
  const connection = await gateway.next();
  connection.started(await connection.take(Type.START));
  connection.answer(await connection.take(Type.BUSINESS), 1, { code: 403, message: "go away" });
  await assert.rejects(connecting, (error) => error instanceof RequestFailed && error.code === 403);
  assert.equal(client.state, "closed");
});

test("a refused START fails connect()", async (t) => {
  const { client, gateway } = await setUp(t);
  const connecting = client.connect();
  const connection = await gateway.next();
  connection.refuse(await connection.take(Type.START), 401, "who are you");
  connection.close(4401);
  await assert.rejects(
    connecting,
    (error) =>
      error instanceof ConnectionFailed && error.code === 4401 && /who are you/.test(error.message),
  );
});

test("connect() tries again within its time, and says why it gave up", async (t) => {
  const { client, gateway, clock } = await setUp(t, { connectTimeout: 5_000 });
  await gateway.close();
  await assert.rejects(clock.settle(client.connect()), /WebSocket: .*ECONNREFUSED/);
});

test("connect() can be aborted", async (t) => {
  const { client, gateway } = await setUp(t);
  const abort = new AbortController();
  const connecting = client.connect({ signal: abort.signal });
  await gateway.next();
  abort.abort(new Error("enough"));
  await assert.rejects(connecting, /enough/);
  assert.equal(client.state, "closed");
});

test("requests are answered in whatever order, errors carry what the gateway says", async (t) => {
  const { client, connection } = await setUpLoggedIn(t);
  const first = client.request("a", "one", { params: { p: "1" }, headers: { h: "2" } });
  const second = client.request("b", Uint8Array.of(1, 2));
  const third = client.request("c");
  const [a, b, c] = [await connection.find(4), await connection.take(4), await connection.take(4)];
  assert.deepEqual([a.seqId, b.seqId, c.seqId], [2, 3, 4]);
  assert.deepEqual([{ ...a.headers }, { ...a.body.params }], [{ h: "2" }, { p: "1" }]);
  connection.answer(b, 2, { data: "B", code: 201, message: "made" });
  connection.answer(a, 3, { data: "A" });
  connection.error(c, 4, 503, { outcome: 1, retryAfterMs: 70, detail: "id" });
  assert.equal((await first).text, "A");
  const answer = await second;
  assert.deepEqual(
    [answer.code, answer.message, answer.isOk, answer.clientSeq, answer.serverSeq],
    [201, "made", false, 3, 2],
  );
  await assert.rejects(third, (error) => {
    assert.deepEqual(
      [error.code, error.outcome, error.retryAfterMs, error.detail],
      [503, 1, 70, "id"],
    );
    return error instanceof RequestFailed;
  });
});

test("requests of one turn go in one message", async (t) => {
  const { client, connection } = await setUpLoggedIn(t);
  const before = connection.messages;
  for (let n = 0; n < 20; n++) client.request("a").catch(() => undefined);
  for (let n = 0; n < 20; n++) await connection.find(4);
  assert.equal(connection.messages, before + 1);
});

test("a request has a time-out and can be aborted; its late answer is dropped", async (t) => {
  const { client, connection, clock } = await setUpLoggedIn(t);
  const slow = client.request("slow", "", { timeout: 500 });
  const abort = new AbortController();
  const unwanted = client.request("unwanted", "", { signal: abort.signal });
  const asked = await connection.find(4);
  abort.abort();
  await assert.rejects(unwanted, { name: "AbortError" });
  await assert.rejects(clock.settle(slow), (error) => error.code === 504 && error.outcome === 0);
  connection.answer(asked, 2);
  await until(() => client.counters.late === 1);
  assert.equal(client.counters.timeouts, 1);
  assert.equal(
    await client.request("x", "", { signal: AbortSignal.abort() }).catch((error) => error.name),
    "AbortError",
  );
});

test("requests wait for room in flight, in order, and time out unsent", async (t) => {
  const { client, connection, clock } = await setUpLoggedIn(t, {}, { maxInFlight: 2 });
  const calls = ["a", "b", "c", "d"].map((name) => client.request(name));
  const unsent = client.request("e", "", { timeout: 100 });
  const a = await connection.find(4);
  const b = await connection.take(4);
  await assert.rejects(clock.settle(unsent), (error) => error.outcome === 1);
  assert.equal(client.inFlight, 2);
  connection.answer(b, 2);
  const c = await connection.find(4);
  assert.equal(c.body.action, "c");
  connection.answer(a, 3);
  const d = await connection.find(4);
  connection.answer(c, 4);
  connection.answer(d, 5);
  await Promise.all(calls);
});

test("too many waiting requests are refused", async (t) => {
  const { client, clock } = await setUpLoggedIn(t, {}, { maxInFlight: 1 });
  const calls = Array.from({ length: 10_001 }, () => client.request("a").catch((error) => error));
  await assert.rejects(client.request("a"), QueueFull);
  await clock.settle(client.close());
  const last = await calls.at(-1);
  assert.ok(last instanceof SessionLost && last.outcome === 1 && last.isFinal);
});

test("what no request can be is refused here", async (t) => {
  const { client } = await setUpLoggedIn(t);
  await assert.rejects(client.request("a", new Uint8Array(2 << 20)), RangeError);
  await assert.rejects(client.request("a", 7), TypeError);
  await assert.rejects(client.request("a\ud800"), ConfigError);
  await assert.rejects(client.request("a", "", { params: { k: 1 } }), TypeError);
  await assert.rejects(client.request("a", "", { timeout: -1 }), ConfigError);
  for (const url of ["nonsense", "ftp://x/"]) {
    assert.throws(() => new Client(url, { openid: "ann" }), ConfigError);
  }
  assert.throws(() => new Client("https://a/"), ConfigError);
  assert.throws(() => new Client("https://a/", { openid: "ann", maxNotifies: 0 }), ConfigError);
  assert.throws(() => new Client("https://a/", { resume: "{}" }), ConfigError);
});

test("notifies come in order, and a SKIP is told as lost in its place", async (t) => {
  const lost = [];
  const { client, connection, clock } = await setUpLoggedIn(t);
  client.on("lost", (event) => lost.push(event));
  connection.notify(2, "first");
  connection.skip(3, 5, 2);
  connection.notify(6, "second");
  connection.notify(6, "again"); // a repeat is dropped
  const reader = client.notifies();
  const { value } = await reader.next();
  assert.deepEqual(
    [value.title, value.msgType, value.serverSeq, Buffer.from(value.data).toString()],
    ["first", "test", 2, "first"],
  );
  assert.deepEqual(lost, []);
  assert.equal((await reader.next()).value.title, "second");
  assert.deepEqual(lost, [{ firstSeq: 3, lastSeq: 5, reason: 2 }]);
  assert.equal(client.serverSeq, 6);
  await clock.settle(client.close());
  assert.equal((await reader.next()).done, true);
});

test("an unread buffer is bounded, and tells what it dropped", async (t) => {
  const { client, connection } = await setUpLoggedIn(t, { maxNotifies: 3 });
  for (let seq = 2; seq <= 9; seq++) connection.notify(seq);
  await until(() => client.counters.notifies === 8);
  assert.equal(client.waitingNotifies, 4);
  const titles = [];
  const read = async () => {
    for await (const notify of client.notifies()) titles.push(notify.title);
  };
  await assert.rejects(read(), (error) => {
    assert.deepEqual([error.count, error.firstSeq, error.lastSeq], [5, 5, 9]);
    return error instanceof NotifyOverflow;
  });
  assert.deepEqual(titles, ["n2", "n3", "n4"]);
});

test("notifies come to a listener too", async (t) => {
  const { client, connection } = await setUpLoggedIn(t);
  const titles = [];
  const off = client.on("notify", (notify) => titles.push(notify.title));
  connection.notify(2);
  connection.notify(3);
  await until(() => titles.length === 2);
  assert.deepEqual(titles, ["n2", "n3"]);
  off();
});

test("acks: after 16 messages, 256 KiB or 200 ms, or with a request", async (t) => {
  const { client, connection, clock } = await setUpLoggedIn(t);
  await clock.advance(199);
  await clock.advance(1);
  assert.equal((await connection.take(Type.ACK)).body.ackedSeqId, 1);
  for (let seq = 2; seq <= 17; seq++) connection.notify(seq);
  assert.equal((await connection.take(Type.ACK)).body.ackedSeqId, 17);
  connection.notify(18, "x".repeat(256 << 10));
  assert.equal((await connection.take(Type.ACK)).body.ackedSeqId, 18);
  connection.notify(19);
  await until(() => client.serverSeq === 19);
  client.request("a").catch(() => undefined);
  assert.equal((await connection.take(Type.BUSINESS)).ackSeqId, 19);
});

test("heartbeats: each interval, sooner while an answer is due; silence ends the connection", async (t) => {
  const all = await setUpLoggedIn(t);
  const { client, connection, clock, gateway } = all;
  await clock.advance(15_000);
  connection.heartbeat(await connection.find(Type.HEARTBEAT));
  await until(() => client.roundTripMs === 0);
  client.request("a").catch(() => undefined);
  await connection.find(Type.BUSINESS);
  await clock.advance(2_000);
  connection.heartbeat(await connection.find(Type.HEARTBEAT));
  const resumed = gateway.next();
  await clock.until(() => client.state === "reconnecting", 1_000);
  assert.equal((await connection.closed).code, 4408);
  const next = await clock.settle(resumed);
  assert.equal((await next.take(Type.START)).body.sessionId, "s1");
});

test("a gateway that does not answer START is given up after 10 s", async (t) => {
  const { client, gateway, clock } = await setUp(t, { connectTimeout: 12_000 });
  const connecting = client.connect();
  connecting.catch(() => undefined);
  await (await gateway.next()).take(Type.START);
  const second = await clock.settle(gateway.next(), 500);
  await second.take(Type.START);
  await clock.settle(client.close());
  await assert.rejects(connecting);
});

test("a wrong frame ends the connection, not the session", async (t) => {
  const garbage = [
    frame({ type: 3, seqId: 9 }),
    Buffer.alloc(4),
    Buffer.from([0, 0, 0, 1, 8]),
    Buffer.from([0xff, 0, 0, 0]),
  ];
  for (const bytes of garbage) {
    const all = await setUpLoggedIn(t);
    all.connection.send(bytes);
    assert.equal((await all.connection.closed).code, 4400);
    const next = await all.clock.settle(all.gateway.next());
    assert.equal((await next.take(Type.START)).body.sessionId, "s1");
  }
});

test("a text message ends the connection too", async (t) => {
  const { connection } = await setUpLoggedIn(t);
  connection.socket.send("hello");
  assert.equal((await connection.closed).code, 4400);
});

test("unknown pushes: with a seq they are acked, without they are ignored", async (t) => {
  const { client, connection, clock } = await setUpLoggedIn(t);
  connection.send(frame({ type: 99 }), frame({ type: 99, seqId: 2 }));
  await until(() => client.serverSeq === 2);
  await clock.advance(200);
  assert.equal((await connection.take(Type.ACK)).body.ackedSeqId, 2);
});

test("close() sends STOP and waits for the gateway", async (t) => {
  const { client, connection } = await setUpLoggedIn(t);
  const closed = client.close(1);
  assert.equal((await connection.find(Type.STOP)).body.reason, 1);
  connection.close(0);
  await closed;
  assert.equal(client.state, "closed");
  await assert.rejects(
    client.request("a"),
    (error) => error instanceof SessionLost && error.isFinal,
  );
});

test("a token function is asked for each connection and before the token expires", async (t) => {
  let asked = 0;
  const token = async () => `token-${++asked}`;
  const { client, gateway, clock } = await setUp(t, { openid: undefined, token });
  const connecting = client.connect();
  const connection = await gateway.next();
  const start = await connection.take(Type.START);
  assert.equal(start.body.authToken, "token-1");
  connection.started(start, { authExpiresAtMs: clock.date() + 10_000 });
  connection.answer(await connection.take(Type.BUSINESS), 1);
  await connecting;
  await clock.advance(8_000);
  const auth = await connection.find(Type.AUTH);
  assert.equal(auth.body.authToken, "token-2");
  connection.auth(auth, { success: true, expiresAtMs: clock.date() + 20_000 });
  await clock.advance(15_999);
  await clock.advance(1);
  assert.equal((await connection.find(Type.AUTH)).body.authToken, "token-3");
});

test("a token that cannot be made now is asked for again, unless it is the first", async (t) => {
  let why = "";
  const token = async () => {
    if (why === "hangs") await new Promise(() => undefined);
    if (why) throw new Error(why);
    return "token";
  };
  const all = await setUpLoggedIn(t, { token });
  for (why of ["no network", "hangs"]) {
    all.connection.cut();
    await until(() => all.client.state === "reconnecting");
    await all.clock.advance(20_000);
    why = "";
    all.connection = (await resume(all)).connection;
    await until(() => all.client.state === "connected");
  }
  why = "who are you";
  const { client } = await setUp(t, { token });
  await assert.rejects(client.connect(), /who are you/);
  why = "hangs";
  const stuck = await setUp(t, { token });
  const connecting = assert.rejects(stuck.client.connect(), /closed/);
  await until(() => stuck.client.state === "connecting");
  await stuck.client.close();
  await connecting;
});

test("a server that is no gateway is none", async (t) => {
  const { client, gateway, clock } = await setUp(t, {
    connectTimeout: 5_000,
    WebSocket: class extends WebSocket {
      constructor(url) {
        super(url);
      }
    },
  });
  gateway.server.options.handleProtocols = undefined;
  await assert.rejects(clock.settle(client.connect()), /the server is no gateway/);
});
