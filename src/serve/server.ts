/** A web server for the page: this machine only, unless another host is asked for. */
import { createReadStream } from "node:fs";
import { stat } from "node:fs/promises";
import { createServer, type Server, type ServerResponse } from "node:http";
import { isIP } from "node:net";
import { extname } from "node:path";
import { pipeline } from "node:stream/promises";
import { RequestError } from "../errors.ts";
import type { PageFiles } from "./build.ts";

const types: Readonly<Record<string, string>> = {
  ".html": "text/html; charset=utf-8",
  ".css": "text/css; charset=utf-8",
  ".js": "text/javascript; charset=utf-8",
  ".mjs": "text/javascript; charset=utf-8",
  ".json": "application/json",
  ".wasm": "application/wasm",
};

/** The page is isolated, so that WebAssembly may use threads, and may load nothing from elsewhere. */
const headers = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Content-Security-Policy":
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; script-src 'self' 'wasm-unsafe-eval' blob:; worker-src 'self' blob:; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'",
  "Cache-Control": "no-cache",
  "X-Content-Type-Options": "nosniff",
};

/** An answer of one line. */
const refuse = (
  response: ServerResponse,
  status: number,
  text: string,
  more: Readonly<Record<string, string>> = {},
) => {
  response.writeHead(status, { ...headers, "Content-Type": "text/plain; charset=utf-8", ...more }).end(`${text}\n`);
};

/** The name in a Host header, without its port: `localhost` of `localhost:8080`, `::1` of `[::1]:8080`. */
const nameIn = (header: string): string =>
  (/^\[([^\]]*)\](?::\d+)?$/.exec(header)?.[1] ?? header.replace(/:\d+$/, "")).toLowerCase();

/**
 * Whether a request is meant for this server: by a loopback name, the host that was asked for, or, where it listens on all
 * addresses, by any address. Another name may be a stranger's that was bound to this machine's address to read the model
 * from the visitor's browser (DNS rebinding).
 */
const isMeant = (header: string | undefined, host: string): boolean => {
  const name = nameIn(header ?? "");
  const everywhere = host === "0.0.0.0" || host === "::";
  return ["localhost", "127.0.0.1", "::1", host.toLowerCase()].includes(name) || (everywhere && isIP(name) !== 0);
};

const send = async (files: PageFiles, url: string, head: boolean, response: ServerResponse): Promise<void> => {
  let name: string;
  try {
    name = decodeURIComponent(new URL(url, "http://page").pathname).slice(1) || "index.html";
  } catch {
    name = "";
  }
  const file = files.get(name);
  if (file === undefined) {
    refuse(response, 404, "not here");
    return;
  }
  const bytes = file instanceof Uint8Array ? file : undefined;
  const length = bytes?.length ?? (await stat((file as { path: string }).path)).size;
  const type = types[extname(name)] ?? "application/octet-stream";
  response.writeHead(200, { ...headers, "Content-Type": type, "Content-Length": length });
  if (head) response.end();
  else if (bytes !== undefined) response.end(bytes);
  // Broken off, the download closes its file.
  else await pipeline(createReadStream((file as { path: string }).path), response);
};

/** Serves files; port 0 takes a free one. Throws a RequestError where the port is taken. */
export const servePage = async (
  files: PageFiles,
  { host, port }: { readonly host: string; readonly port: number },
): Promise<{ readonly server: Server; readonly url: string; close(): Promise<void> }> => {
  const server = createServer((request, response) => {
    if (!isMeant(request.headers.host, host)) {
      refuse(response, 403, `this page is not served as ${nameIn(request.headers.host ?? "")}; ask for it by --host`);
      return;
    }
    if (request.method !== "GET" && request.method !== "HEAD") {
      refuse(response, 405, "only GET and HEAD", { Allow: "GET, HEAD" });
      return;
    }
    send(files, request.url ?? "/", request.method === "HEAD", response).catch(() => response.destroy());
  });
  await new Promise<void>((done, fail) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      const known: Readonly<Record<string, string>> = {
        EADDRINUSE: `port ${port} is taken; choose another --port, or 0 for a free one`,
        EACCES: `port ${port} may not be used; choose another --port`,
        EADDRNOTAVAIL: `this machine is not ${host}; give --host 127.0.0.1`,
      };
      const text = known[error.code ?? ""];
      fail(text === undefined ? error : new RequestError(text));
    });
    server.listen(port, host, done);
  });
  const address = server.address();
  const at = typeof address === "object" && address !== null ? address.port : port;
  return {
    server,
    url: `http://${host.includes(":") ? `[${host}]` : host}:${at}/`,
    close: () =>
      new Promise((done) => {
        server.close(() => done());
        server.closeAllConnections();
      }),
  };
};
