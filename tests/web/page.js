// The page of the browser tests: one client, made as the query says. What it was told is kept in
// sessionStorage, in the same turn, so that a reload shows what came before it.
import { Client } from "/gatesvr.js";

const { url, hashes, start = true, ...options } = JSON.parse(
  new URLSearchParams(location.search).get("options"),
);

const told = (kind) => JSON.parse(sessionStorage.getItem(kind) ?? "[]");
const tell = (kind, what) => sessionStorage.setItem(kind, JSON.stringify([...told(kind), what]));

const client = new Client(url, {
  ...options,
  serverCertificateHashes: hashes.map((hex) => ({
    algorithm: "sha-256",
    value: Uint8Array.from(hex.match(/../g), (byte) => parseInt(byte, 16)),
  })),
});
client.on("notify", ({ data, serverSeq }) =>
  tell("notifies", [serverSeq, new TextDecoder().decode(data)]),
);
client.on("lost", ({ firstSeq, lastSeq }) => tell("lost", [firstSeq, lastSeq]));
client.on("sessionLost", ({ isFinal, code }) => tell("sessionLost", [isFinal, code]));
client.on("kicked", ({ reason }) => tell("kicked", reason));
client.on("state", (state) => tell("states", state));
addEventListener("pageshow", ({ persisted }) => tell("shown", persisted));

const begunAt = performance.now();
const connected = start
  ? client.connect().then(
      () => Math.round(performance.now() - begunAt),
      (error) => Promise.reject(String(error)),
    )
  : null;
connected?.catch(() => undefined);

/** Send requests from one number to another; return the answers' texts, in the order of asking. */
async function ask(first, last) {
  const numbers = Array.from({ length: last - first }, (_, n) => `${first + n}`);
  return (await Promise.all(numbers.map((n) => client.request("echo", n)))).map((a) => a.text);
}

Object.assign(window, { client, connected, told, ask });
