/** What the client takes from where it runs: time, chance, and what the page tells. */

/** Longest time that a platform's timer can be set to, ms. */
const MAX_TIMER_MS = 2 ** 31 - 1;

/** A source of events, such as window and document. */
export interface EventSource {
  addEventListener(type: string, listener: () => void): void;
  removeEventListener(type: string, listener: () => void): void;
}

export interface Environment {
  /** Return a time that never jumps, ms. */
  now(): number;
  /** Return the time of day, ms since the epoch. */
  date(): number;
  /** Return a number from 0 to 1: jitter wants spread, not secrecy. */
  random(): number;
  /** Call once, ms from now; a time too long for the platform comes early. */
  setTimer(call: () => void, ms: number): unknown;
  clearTimer(timer: unknown): void;
  /** Tells online, offline, pagehide and pageshow; null where there is no page. */
  window: (EventSource & { readonly navigator?: { readonly onLine?: boolean } }) | null;
  /** Tells visibilitychange, freeze and resume; null where there is no page. */
  document: (EventSource & { readonly visibilityState?: string }) | null;
}

/** Return the environment of this platform. */
export function platform(): Environment {
  const scope = globalThis as unknown as Partial<EventSource> & {
    document?: Partial<EventSource>;
  };
  const isSource = (source: unknown) =>
    typeof (source as Partial<EventSource> | undefined)?.addEventListener === "function";
  return {
    now: () => performance.now(),
    date: () => Date.now(),
    random: () => Math.random(),
    // One more: a platform cuts off fractions, and a timer that is set again and again for being
    // early is held back in a hidden tab.
    setTimer: (call, ms) => setTimeout(call, Math.min(Math.max(ms, 0) + 1, MAX_TIMER_MS)),
    clearTimer: (timer) => clearTimeout(timer as ReturnType<typeof setTimeout>),
    window: isSource(scope) ? (scope as EventSource) : null,
    document: isSource(scope.document) ? (scope.document as EventSource) : null,
  };
}

/** What a page tells the client. */
export interface PageListener {
  /** The network is back, or the page. */
  online(): void;
  /** The network is gone, or the page is left. */
  offline(): void;
  /** The page is seen again, or runs again: time may have passed unnoticed. */
  shown(): void;
  /** The page is hidden, and may be stopped without another word. */
  hidden(): void;
}

/** Listen to the page; return what ends it. */
export function watchPage(environment: Environment, listener: PageListener): () => void {
  const { window, document } = environment;
  const visibility = () => {
    if (document?.visibilityState === "hidden") listener.hidden();
    else listener.shown();
  };
  const shown = () => listener.shown();
  const online = () => listener.online();
  const hidden = () => listener.hidden();
  // A page that is left may be kept and shown again, but never one with an open connection.
  const left = () => {
    listener.hidden();
    listener.offline();
  };
  const wanted: [EventSource | null, string, () => void][] = [
    [window, "online", online],
    [window, "pageshow", online],
    [window, "offline", () => listener.offline()],
    [window, "pagehide", left],
    [document, "visibilitychange", visibility],
    [document, "freeze", hidden],
    [document, "resume", shown],
  ];
  for (const [source, type, call] of wanted) source?.addEventListener(type, call);
  return () => {
    for (const [source, type, call] of wanted) source?.removeEventListener(type, call);
  };
}
