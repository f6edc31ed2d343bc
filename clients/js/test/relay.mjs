/** A TCP relay that can go away: what is behind it is out of reach then, as without a network. */

import { once } from "node:events";
import { connect, createServer } from "node:net";

export class Relay {
  connections = 0;
  #sockets = new Set();
  #isOnline = true;
  #server;

  static async open(target) {
    const relay = new Relay();
    const [host, port] = target.split(":");
    relay.#server = createServer((client) => relay.#carry(client, host, Number(port)));
    relay.#server.listen(0, "127.0.0.1");
    await once(relay.#server, "listening");
    return relay;
  }

  get address() {
    return `127.0.0.1:${this.#server.address().port}`;
  }

  /** End every connection, and refuse others until online(). */
  offline() {
    this.#isOnline = false;
    for (const socket of this.#sockets) socket.resetAndDestroy();
  }

  online() {
    this.#isOnline = true;
  }

  close() {
    this.offline();
    this.#server.close();
  }

  #carry(client, host, port) {
    if (!this.#isOnline) {
      client.resetAndDestroy();
      return;
    }
    this.connections++;
    const gateway = connect(port, host);
    for (const [socket, other] of [
      [client, gateway],
      [gateway, client],
    ]) {
      this.#sockets.add(socket);
      socket.on("error", () => other.destroy());
      socket.on("close", () => {
        this.#sockets.delete(socket);
        other.destroy();
      });
      socket.pipe(other);
    }
  }
}
