/** What a client does from one connection to the next: resume, loss, close codes, GOAWAY, the page. */

import assert from "node:assert/strict";
import test from "node:test";
import { Client, CloseCode, ConfigError, LostReason, SessionLost } from "../dist/index.js";
import { verdictOf, Backoff } from "../dist/reconnect.js";
import { decodeState } from "../dist/saved.js";
import { Gateway, Type, resume, setUp, setUpLoggedIn, until } from "./gateway.mjs";
import { WebSocket } from "ws";

test("a cut connection is resumed: nothing lost, nothing twice", async (t) => {
  const all = await setUpLoggedIn(t);
  const { client, connection } = all;
  const seen = [];
  client.on("notify", (notify) => seen.push(notify.serverSeq));
  connection.notify(2);
  const accepted = client.request("accepted");
  const held = client.request("held");
  const one = await connection.find(4);
  const two = await connection.take(4);
  await until(() => seen.length === 1);
  connection.cut();
  const next = await resume(all, { maxClientSeq: 2, replayFrom: 3, replayTo: 4 });
  assert.deepEqual(
    [
      next.start.body.sessionId,
      Buffer.from(next.start.body.resumeToken).toString(),
      next.start.body.attempt,
      next.start.body.lastAckedSeqId,
    ],
    ["s1", "token-1", 1, 2],
  );
  const again = await next.connection.find(4);
  assert.deepEqual([again.seqId, again.msgId, again.body.action], [3, two.msgId, "held"]);
  next.connection.notify(2); // a repeat
  next.connection.notify(3);
  next.connection.answer(one, 4);
  next.connection.answer(again, 5);
  await Promise.all([accepted, held]);
  assert.deepEqual(seen, [2, 3]);
  assert.deepEqual(client.connects, { total: 2, resumed: 1 });
  const after = client.request("after");
  const asked = await next.connection.find(4);
  assert.equal(asked.seqId, 4);
  next.connection.answer(asked, 6);
  await after;
});

test("each try counts its attempt; a stale one goes above what the gateway has seen", async (t) => {
  const all = await setUpLoggedIn(t);
  const { gateway, clock } = all;
  all.connection.cut();
  for (const attempt of [1, 2]) {
    const connection = await clock.settle(gateway.next());
    assert.equal((await connection.take(Type.START)).body.attempt, attempt);
    connection.cut();
  }
  const stale = await clock.settle(gateway.next());
  const start = await stale.take(Type.START);
  stale.refuse(start, 409, "stale", { attempt: 7 });
  stale.close(4409);
  const { start: last } = await resume(all);
  assert.equal(last.body.attempt, 8);
});

test("nothing is sent behind a resuming START before its answer", async (t) => {
  const all = await setUpLoggedIn(t);
  all.connection.cut();
  await all.clock.until(() => all.client.state === "reconnecting");
  const waiting = all.client.request("waits");
  const connection = await all.clock.settle(all.gateway.next());
  const start = await connection.take(Type.START);
  await all.clock.advance(1_000);
  assert.equal(connection.requests.length, 0);
  connection.started(start, { resumed: true, state: 2, maxClientSeq: 1 });
  const asked = await connection.find(4);
  assert.equal(asked.seqId, 2);
  connection.answer(asked, 2);
  await waiting;
});

test("a gateway that has restarted: SessionLost once, then a new session", async (t) => {
  const all = await setUpLoggedIn(t, { loginParams: { key: "k" } });
  const { client, connection } = all;
  const reader = client.notifies();
  const reading = reader.next();
  reading.catch(() => undefined);
  const open = client.request("open");
  open.catch(() => undefined);
  await connection.find(4);
  connection.cut();
  const next = await resume(all, {
    resumed: false,
    sessionId: "s2",
    state: 1,
    maxClientSeq: 0,
    lostReason: 3,
  });
  await assert.rejects(
    open,
    (error) => error instanceof SessionLost && error.outcome === 0 && !error.isFinal,
  );
  const hello = await next.connection.find(4);
  assert.deepEqual([hello.seqId, hello.body.action, hello.body.params.key], [1, "hello", "k"]);
  next.connection.answer(hello, 1);
  await assert.rejects(reading, (error) => {
    assert.deepEqual(
      [error.reason, error.sessionId, error.isFinal],
      [LostReason.UNKNOWN_SESSION, "s1", false],
    );
    return error instanceof SessionLost;
  });
  next.connection.notify(2, "fresh");
  assert.equal((await reader.next()).value.title, "fresh");
  assert.equal(client.sessionId, "s2");
  assert.equal(client.counters.sessionLosses, 1);
});

test("a kicked client stays kicked", async (t) => {
  const { client, connection, gateway, clock } = await setUpLoggedIn(t);
  const events = [];
  client.on("kicked", ({ code, reason }) => events.push([code, reason]));
  client.on("sessionLost", (error) => events.push([error.code, error.isFinal]));
  client.on("state", (state) => events.push(state));
  client.on("notify", () => undefined);
  connection.kick(1001, "bye");
  connection.close(4410);
  await until(() => client.state === "closed");
  await clock.advance(120_000);
  assert.equal(gateway.waiting, 0);
  assert.deepEqual(events, [[1001, "bye"], "closed", [4410, true]]);
});

test("the close-code table", () => {
  const after = (code, reason = "", isStarted = true) => {
    const { action, delayMs } = verdictOf({ kind: "peer", code, reason }, isStarted);
    return delayMs ? `${action} ${delayMs}` : action;
  };
  const expected = {
    0: "stop",
    4400: "stop",
    4401: "stop",
    4403: "fresh",
    4408: "resume",
    4409: "stop",
    4410: "stop",
    4411: "fresh",
    4413: "resume",
    4426: "stop",
    4429: "resume",
    4500: "resume",
    4503: "resume",
    4499: "stop",
    4599: "resume",
    4600: "stop",
    77: "stop",
  };
  for (const [code, action] of Object.entries(expected))
    assert.equal(after(Number(code)), action, code);
  for (const code of Object.values(CloseCode)) assert.ok(String(code) in expected);
  assert.equal(after(4409, "", false), "resume");
  assert.equal(after(4503, "full retry_after_ms=1500"), "resume 1500");
  assert.equal(after(4503, "retry_after_ms=999999"), "resume 60000");
  assert.equal(after(4503, "reconnect_after_ms=999999"), "resume 300000");
  assert.equal(verdictOf({ kind: "lost", code: 0, reason: "" }, true).action, "resume");
});

test("the back-off doubles up to 30 s, with full jitter", () => {
  const backoff = new Backoff();
  const longest = Array.from({ length: 9 }, () => backoff.next(1, 0));
  assert.deepEqual(longest, [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000, 30000]);
  for (let n = 0; n < 2000; n++) backoff.next(1, 0);
  assert.equal(backoff.next(0.5, 0), 15000);
  backoff.reset();
  assert.equal(backoff.next(0.5, 4000), 2000);
});

test("codes that end the session, each on a live connection", async (t) => {
  for (const [code, action] of [
    [4400, "stop"],
    [4401, "stop"],
    [4426, "stop"],
    [4403, "fresh"],
    [4411, "fresh"],
    [4413, "resume"],
    [4500, "resume"],
    [4503, "resume"],
    [4429, "resume"],
  ]) {
    const all = await setUpLoggedIn(t);
    all.connection.close(code, "retry_after_ms=1000");
    if (action === "stop") {
      await until(() => all.client.state === "closed");
    } else {
      const next = await all.clock.settle(all.gateway.next());
      const start = await next.take(Type.START);
      assert.equal(start.body.sessionId, action === "resume" ? "s1" : "", String(code));
    }
  }
});

test("GOAWAY for later: answers are waited for, new requests go on the next connection", async (t) => {
  const all = await setUpLoggedIn(t);
  const { client, connection } = all;
  const goaways = [];
  client.on("goaway", (event) => goaways.push(event.reason));
  const first = client.request("first");
  const asked = await connection.find(4);
  connection.goaway("drain", 2_000);
  await until(() => goaways.length === 1);
  const second = client.request("second");
  connection.answer(asked, 2);
  await first;
  assert.equal((await connection.find(Type.ACK)).body.ackedSeqId, 2);
  assert.equal((await connection.closed).code, 1000);
  const next = await resume(all, { maxClientSeq: 2 });
  const again = await next.connection.find(4);
  assert.equal(again.body.action, "second");
  next.connection.answer(again, 3);
  await second;
});

test("GOAWAY at once: the next connection is up before the last one is left", async (t) => {
  const all = await setUpLoggedIn(t);
  const { client, connection } = all;
  const first = client.request("first");
  const asked = await connection.find(4);
  connection.goaway("moved", 0);
  const { connection: next } = await resume(all, { maxClientSeq: 2 });
  assert.equal((await connection.closed).code, 1000);
  next.answer(asked, 2);
  await first;
  assert.equal(client.counters.sessionLosses, 0);
});

test("GOAWAY with an address goes there, and comes home where that fails", async (t) => {
  const other = await Gateway.open();
  t.after(() => other.close());
  const all = await setUpLoggedIn(t);
  all.connection.goaway("move", 0, new URL(other.url).host);
  const there = await all.clock.settle(other.next());
  const start = await there.take(Type.START);
  assert.equal(start.body.sessionId, "s1");
  there.close(4503);
  const { start: home } = await resume(all);
  assert.equal(home.body.attempt, 2);
});

test("the session is given up after reconnectTimeout, by a final SessionLost", async (t) => {
  const { client, connection, gateway, clock } = await setUpLoggedIn(t, {
    reconnectTimeout: 20_000,
  });
  await gateway.close();
  const reading = client.notifies().next();
  connection.cut();
  await assert.rejects(
    clock.settle(reading, 500),
    (error) => error instanceof SessionLost && error.isFinal,
  );
  assert.equal(client.state, "closed");
});

test("another client resumes what one has suspended; a state of another openid is refused", async (t) => {
  const all = await setUpLoggedIn(t);
  all.connection.notify(2);
  await until(() => all.client.waitingNotifies === 1);
  const state = await all.client.suspend();
  assert.throws(() => new Client(all.gateway.url, { openid: "bob", resume: state }), ConfigError);
  const second = new Client(all.gateway.url, {
    resume: state,
    WebSocket,
    environment: { ...all.clock },
  });
  t.after(() => all.clock.settle(second.close()));
  const connecting = second.connect();
  const { start } = await resume(all);
  assert.deepEqual([start.body.sessionId, start.body.openid], ["s1", "ann"]);
  await connecting;
});

test("a state older than the last ack: what was acked since is told as lost", async (t) => {
  const all = await setUpLoggedIn(t);
  const state = JSON.parse(await all.client.suspend());
  const second = new Client(all.gateway.url, {
    resume: JSON.stringify({ ...state, position: 0 }),
    WebSocket,
    environment: { ...all.clock },
  });
  t.after(() => all.clock.settle(second.close()));
  const lost = [];
  second.on("lost", (event) => lost.push([event.firstSeq, event.lastSeq]));
  const connecting = second.connect();
  const { connection } = await resume(all, { replayFrom: 4, replayTo: 4 });
  await connecting;
  connection.notify(4);
  assert.equal((await second.notifies().next()).value.serverSeq, 4);
  assert.deepEqual(lost, [[1, 3]]);
});

/** A page: window and document of a browser, as far as the client listens to them. */
function page() {
  const window = Object.assign(new EventTarget(), { navigator: { onLine: true } });
  const document = Object.assign(new EventTarget(), { visibilityState: "visible" });
  const tell = (target, type) => target.dispatchEvent(new Event(type));
  return { window, document, tell };
}

async function setUpPage(t) {
  const { window, document, tell } = page();
  const all = await setUp(t);
  const client = new Client(all.gateway.url, {
    openid: "ann",
    WebSocket,
    environment: { ...all.clock, window, document },
  });
  t.after(() => all.clock.settle(client.close()));
  const connecting = client.connect();
  const connection = await all.gateway.next();
  connection.started(await connection.take(Type.START));
  connection.answer(await connection.take(4), 1);
  await connecting;
  return { ...all, client, connection, window, document, tell };
}

test("offline closes, and online resumes at once", async (t) => {
  const all = await setUpPage(t);
  all.tell(all.window, "offline");
  await until(() => all.client.state === "reconnecting");
  await all.clock.advance(5_000);
  assert.equal(all.gateway.waiting, 0);
  all.tell(all.window, "online");
  const next = await all.gateway.next(); // without time
  assert.equal((await next.take(Type.START)).body.sessionId, "s1");
});

test("a platform that never says online is not believed for ever", async (t) => {
  const all = await setUpPage(t);
  all.tell(all.window, "offline");
  await all.clock.settle(all.gateway.next(), 1_000);
});

test("a page that is hidden acks at once; one that is shown asks for a sign of life", async (t) => {
  const all = await setUpPage(t);
  all.document.visibilityState = "hidden";
  all.tell(all.document, "visibilitychange");
  assert.equal((await all.connection.take(Type.ACK)).body.ackedSeqId, 1);
  all.document.visibilityState = "visible";
  all.tell(all.document, "visibilitychange");
  all.connection.heartbeat(await all.connection.take(Type.HEARTBEAT));
  await all.clock.advance(6_000);
  assert.equal(all.client.state, "connected");
  all.tell(all.document, "resume");
  await all.connection.take(Type.HEARTBEAT);
  await all.clock.advance(5_000);
  assert.equal((await all.connection.closed).code, 4408);
});

test("a page that was frozen looks at what has arrived before it gives the gateway up", async (t) => {
  const all = await setUpPage(t);
  await all.clock.advance(15_000);
  const beat = await all.connection.find(Type.HEARTBEAT);
  all.connection.heartbeat(beat);
  all.clock.sleep(60_000); // the answer has arrived meanwhile; timers are late
  await all.clock.advance(50);
  assert.equal(all.client.state, "connected");
});

test("a late heartbeat has its time, and what is due goes with whatever comes", async (t) => {
  const all = await setUpPage(t);
  const { clock, connection, client } = all;
  connection.notify(2);
  await until(() => client.serverSeq === 2);
  clock.sleep(90_000); // no timer rang: the tab is hidden
  connection.notify(3);
  assert.equal((await connection.take(Type.ACK)).body.ackedSeqId, 3);
  connection.heartbeat(await connection.take(Type.HEARTBEAT));
  connection.notify(4);
  await until(() => client.serverSeq === 4);
  clock.sleep(90_000); // and nothing comes
  await clock.advance(100);
  const beat = await connection.find(Type.HEARTBEAT);
  await clock.advance(14_000);
  assert.equal(client.state, "connected");
  connection.heartbeat(beat);
  await clock.advance(1_000);
  connection.heartbeat(await connection.take(Type.HEARTBEAT));
  assert.equal(client.state, "connected");
});

test("a timer is set anew from what comes: a chain of timers is held back in a hidden tab", async (t) => {
  const all = await setUpPage(t);
  const { clock, connection } = all;
  for (let n = 0; n < 5; n++) {
    await clock.advance(15_000);
    connection.heartbeat(await connection.find(Type.HEARTBEAT));
    await until(() => clock.depth === 1);
  }
});

test("a page that is left has no connection, and one that is shown again resumes", async (t) => {
  const all = await setUpPage(t);
  all.tell(all.window, "pagehide");
  assert.equal((await all.connection.take(Type.ACK)).body.ackedSeqId, 1);
  assert.equal((await all.connection.closed).code, 1000);
  assert.equal(all.client.state, "reconnecting");
  all.tell(all.window, "pageshow");
  const next = await all.gateway.next(); // without time
  assert.equal((await next.take(Type.START)).body.sessionId, "s1");
});

test("a page that runs again asks before it gives the gateway up", async (t) => {
  const all = await setUpPage(t);
  await all.clock.advance(15_000);
  await all.connection.find(Type.HEARTBEAT);
  all.clock.sleep(60_000); // the answer is there, and not read yet
  all.tell(all.document, "resume");
  assert.equal(all.client.state, "connected");
  all.connection.heartbeat(await all.connection.take(Type.HEARTBEAT));
  await all.clock.advance(10_000);
  assert.equal(all.client.state, "connected");
});

test("with onState the state is stored before what depends on it, and acks follow the reader", async (t) => {
  const states = [];
  const onState = (state) => states.push(JSON.parse(state));
  const all = await setUpLoggedIn(t, { onState });
  const { client, connection, clock } = all;
  assert.deepEqual([states.at(-1).sessionId, states.at(-1).attempt], ["s1", 0]);
  connection.send(connection.notifyFrame(2), connection.notifyFrame(3));
  await until(() => client.waitingNotifies === 2);
  await clock.advance(200);
  assert.equal((await connection.take(Type.ACK)).body.ackedSeqId, 1);
  const reader = client.notifies();
  await reader.next();
  await clock.advance(1_000);
  assert.equal(connection.requests.length, 0); // n2 is in the reader's hand
  await reader.next();
  await clock.advance(200);
  assert.equal((await connection.take(Type.ACK)).body.ackedSeqId, 2);
  assert.equal(states.at(-1).position, 2);
  connection.cut();
  const next = await resume(all);
  assert.equal(next.start.body.lastAckedSeqId, 2);
  assert.equal(states.find((state) => state.attempt === 1)?.attempt, 1);
});

test("an application's error in onState closes the connection, and the client tries again", async (t) => {
  let isFull = false;
  const onState = () => {
    if (isFull) throw new Error("空きがありません".repeat(10));
  };
  const all = await setUpLoggedIn(t, { onState });
  isFull = true;
  await all.clock.advance(200); // an ack is due
  assert.equal((await all.connection.closed).code, 4500);
  isFull = false;
  await resume(all);
});

test("a saved state is taken by its names alone", async () => {
  const names = { openid: "ann", clientId: "", sessionId: "s1", attempt: 1, position: 2 };
  const text = JSON.stringify({ ...names, resumeToken: btoa("token"), version: 1 });
  const more = `"pending":null,"isLoggedIn":true,"__proto__":{"state":1}`;
  const saved = decodeState(text.replace("{", `{${more},`));
  assert.deepEqual(Object.keys(saved).sort(), [...Object.keys(names), "resumeToken"].sort());
});
