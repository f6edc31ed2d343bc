/** The same on Node 20, which has no WebSocket of its own: that of `ws`, with a CA of one's own. */

import { readFileSync } from "node:fs";
import { Client } from "gatesvr";
import { WebSocket } from "ws";

class Trusting extends WebSocket {
  constructor(url: string, protocols: string[]) {
    super(url, protocols, { ca: readFileSync("gateway.pem") });
  }
}

const client = new Client("https://localhost:8443/gatesvr", { openid: "ann", WebSocket: Trusting });
await client.connect();
console.log((await client.request("echo", "hello")).text);
await client.close();
