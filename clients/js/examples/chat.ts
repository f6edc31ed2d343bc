/** A chat in a page: the room over a reload, a cut and a change of the network. */

import { Client, NotifyOverflow, RequestFailed, SessionLost, type ClientState } from "gatesvr";

export async function chat(
  url: string,
  openid: string,
  say: (line: string) => void,
): Promise<Client> {
  const client = new Client(url, { openid, storage: true });
  client.on("state", (state: ClientState) =>
    say(`(${state}, by ${client.transport ?? "nothing"})`),
  );
  client.on("lost", ({ firstSeq, lastSeq }) => say(`(${lastSeq - firstSeq + 1} lines are lost)`));
  client.on("kicked", ({ reason }) => say(`(kicked: ${reason})`));
  await client.connect();
  void read(client, say);
  await join(client);
  return client;
}

async function join(client: Client): Promise<void> {
  const answer = await client.request("chat_join", "", { timeout: 5_000 });
  if (!answer.isOk) throw new Error(answer.message);
}

async function read(client: Client, say: (line: string) => void): Promise<void> {
  for (;;) {
    try {
      for await (const notify of client.notifies()) say(`${notify.title}: ${notify.content}`);
      return;
    } catch (error) {
      if (error instanceof NotifyOverflow) {
        say(`(${error.count} lines came too fast)`);
      } else if (error instanceof SessionLost && !error.isFinal) {
        await join(client); // another session has taken its place
      } else {
        say(`(${String(error)})`);
        return;
      }
    }
  }
}

export async function send(client: Client, text: string, signal: AbortSignal): Promise<string> {
  try {
    const { data } = await client.request("chat_say", text, { params: { room: "lobby" }, signal });
    return new TextDecoder().decode(data);
  } catch (error) {
    if (error instanceof RequestFailed && error.retryAfterMs > 0) return "busy, try again";
    throw error;
  }
}
