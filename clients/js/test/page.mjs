/**
 * A page in a process of its own, which a test kills in mid-stream: `node page.mjs ADDRESS FILE`.
 * It keeps its session in FILE, and prints each notify as a line: server seq and content.
 */

import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { WebSocket } from "ws";
import { Client } from "../dist/index.js";

const [address, file] = process.argv.slice(2);

class Trusting extends WebSocket {
  constructor(url, protocols) {
    super(url, protocols, { rejectUnauthorized: false });
  }
}

const storage = {
  getItem: () => (existsSync(file) ? readFileSync(file, "utf8") : null),
  setItem(_, value) {
    writeFileSync(`${file}.new`, value);
    renameSync(`${file}.new`, file);
  },
};
const client = new Client(`https://${address}/gatesvr`, {
  openid: "eve",
  WebSocket: Trusting,
  storage,
});
await client.connect();
process.stdout.write(`session ${client.sessionId}\n`);
for await (const { serverSeq, content } of client.notifies()) {
  process.stdout.write(`${serverSeq} ${content}\n`);
}
