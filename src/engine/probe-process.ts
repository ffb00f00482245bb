/**
 * Tries one provider in a process of its own, because its libraries write to stderr past us and may end the process:
 * `node probe-process.js PROVIDER THREADS` prints one JSON object, { works, message }.
 */
import { probe } from "./engine.ts";
import type { Provider } from "./session.ts";

const [provider = "cpu", threads = "1"] = process.argv.slice(2);
let message = "works";
let works = true;
try {
  await probe({ provider: provider as Provider, threads: Number(threads) });
} catch (error) {
  works = false;
  const [said = ""] = (error as Error).message.split("\n");
  message = /is not available here \((.*)\)/.exec(said)?.[1] ?? said;
}
process.stdout.write(`${JSON.stringify({ works, message })}\n`);
