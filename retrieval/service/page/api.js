// Asks the server, and turns whatever goes wrong into one sentence for the reader. It does not know what is asked.

import { el } from "./dom.js";

const LONGEST_WAIT = 30; // seconds before a busy server is asked again

// Something the reader must hear, in a sentence; anything else that is thrown is a mistake of ours.
export class Trouble extends Error {}

export async function ask(path, { params = {}, body, signal } = {}) {
  const answer = await fetched(path, { params, body, signal });
  return answer.json();
}

// The answer itself, for files. Throws Trouble, or AbortError when `signal` says so.
export async function fetched(path, { params = {}, body, signal } = {}) {
  const url = new URL(path, location.origin);
  for (const [name, value] of Object.entries(params)) {
    if (value !== null && value !== undefined && value !== "") url.searchParams.append(name, value);
  }
  let waited = false;
  for (;;) {
    const answer = await sent(url, body, signal);
    if (answer.ok) return answer;
    const sentence = await detailOf(answer);
    if (answer.status === 401) {
      await askForKey(sentence);
    } else if (answer.status === 429 && !waited) {
      waited = true;
      const seconds = Math.min(LONGEST_WAIT, Number(answer.headers.get("retry-after")) || 1);
      notice(`The server is busy. Asking again in ${seconds} s …`);
      await pause(seconds, signal).finally(() => notice(""));
    } else {
      throw new Trouble(sentence);
    }
  }
}

export function notice(sentence) {
  document.getElementById("notice").textContent = sentence;
}

export function hasKey() {
  return key() !== null;
}

// Runs `work`; a Trouble is shown in `place` with a way to try again, an abort is nobody's trouble. `busy` is marked
// meanwhile; after an abort the mark stays, for whoever aborted has begun something else there.
export async function attempt(place, work, busy = null) {
  busy?.setAttribute("aria-busy", "true");
  try {
    await work();
    busy?.removeAttribute("aria-busy");
  } catch (error) {
    if (error.name === "AbortError") return;
    busy?.removeAttribute("aria-busy");
    if (!(error instanceof Trouble)) throw error;
    const again = () => {
      box.remove();
      attempt(place, work, busy);
    };
    const box = el(
      "div",
      { class: "trouble", role: "alert" },
      el("p", {}, error.message),
      el("button", { type: "button", on: { click: again } }, "Try again"),
    );
    place.replaceChildren(box);
  }
}

async function sent(url, body, signal) {
  const headers = {};
  if (key() !== null) headers.Authorization = `Bearer ${key()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  try {
    return await fetch(url, {
      method: body === undefined ? "GET" : "POST",
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      signal,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Trouble(
      navigator.onLine === false
        ? "This device is offline, so the server cannot be asked. Connect it and try again."
        : "The server cannot be reached. See whether “lookahead serve” still runs, then try again.",
    );
  }
}

async function detailOf(answer) {
  try {
    const problem = await answer.json();
    if (typeof problem.detail === "string" && problem.detail) return problem.detail;
  } catch (error) {
    if (error.name === "AbortError") throw error; // else: no JSON, so something before the server answered
  }
  return `The server answered ${answer.status} ${answer.statusText} without saying why. Try again, or look at its log.`;
}

function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(signal.reason);
    });
  });
}

let held = null; // the key, where storage is forbidden

function key() {
  try {
    return sessionStorage.getItem("key") ?? held;
  } catch {
    return held;
  }
}

function keep(told) {
  held = told;
  try {
    sessionStorage.setItem("key", told);
  } catch {
    // it then holds until the page is left
  }
}

let asking = null; // several requests can meet a locked door at once; the reader is asked once

function askForKey(sentence) {
  asking ??= dialogue(sentence).finally(() => {
    asking = null;
  });
  return asking;
}

function dialogue(sentence) {
  const lock = document.getElementById("lock");
  const field = document.getElementById("lock-key");
  document.getElementById("lock-why").textContent = sentence;
  field.value = "";
  lock.returnValue = "";
  lock.showModal();
  field.focus();
  return new Promise((resolve, reject) => {
    lock.addEventListener(
      "close",
      () => {
        const told = field.value.trim();
        field.value = "";
        if (lock.returnValue !== "use") {
          reject(new Trouble(sentence));
        } else if (!/^[\x21-\x7e]+$/.test(told)) {
          reject(new Trouble("A key has plain letters, digits and signs only, and no spaces. Try again with another."));
        } else {
          keep(told);
          resolve();
        }
      },
      { once: true },
    );
  });
}
