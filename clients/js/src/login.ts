/** What a client logs in with, at first and whenever another session begins. */

import { Outcome, RequestFailed } from "./errors.js";
import type { Answer } from "./answer.js";
import { OK } from "./messages.js";
import type { Texts } from "./wire.js";

/** The application's own error kept a login, or its token, from being made. */
export class LoginNotMade extends Error {
  constructor(readonly error: unknown) {
    super(`the login could not be made: ${String(error)}`);
  }
}

export type LoginParams = Texts | (() => Texts);

/** Sends logins, and remembers the last one that was accepted. */
export class ClientLogin {
  #last: [Uint8Array | undefined, Texts | undefined] | null = null; // as send() took it

  constructor(
    readonly sender: (data: Uint8Array, params: Texts) => Promise<Answer>,
    readonly data: Uint8Array | undefined,
    readonly params: LoginParams | undefined,
    readonly isAutomatic: boolean,
  ) {}

  /** Whether a new session is logged in to before the application's requests are sent. */
  get isDue(): boolean {
    return this.isAutomatic || this.#last !== null;
  }

  /** Log in; where neither is given, with the client's own data and parameters. */
  async send(data?: Uint8Array, params?: Texts): Promise<Answer> {
    const own = data === undefined && params === undefined;
    const answer = await (own
      ? this.sender(this.data ?? new Uint8Array(0), this.#made())
      : this.sender(data ?? new Uint8Array(0), params ?? {}));
    if (answer.code !== OK) {
      throw new RequestFailed(`login refused: ${answer.message}`, answer.code, Outcome.DONE);
    }
    this.#last = [data, params];
    return answer;
  }

  /** Log in to a new session as to the last one, if a login is due. */
  async repeat(): Promise<void> {
    if (this.#last !== null && this.params === undefined && this.data === undefined) {
      await this.send(...this.#last);
    } else if (this.isDue) {
      await this.send();
    }
  }

  #made(): Texts {
    if (typeof this.params !== "function") return this.params ?? {};
    try {
      return this.params();
    } catch (error) {
      throw new LoginNotMade(error);
    }
  }
}
