// Keeps the site for use without a network: files.json lists it, and its address names the version.

const CACHE = "bhvit";

self.addEventListener("install", (event) => {
  event.waitUntil((async () => {
    const files = await (await fetch("files.json", { cache: "no-store" })).json();
    const cache = await caches.open(CACHE);
    await cache.addAll(files);
    await self.skipWaiting();
  })());
});

self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));

// With these headers a page may share memory, and so use threads. Hosts need not send them: from the second load on, this
// script does.
function isolated(response) {
  const headers = new Headers(response.headers);
  headers.set("Cross-Origin-Opener-Policy", "same-origin");
  headers.set("Cross-Origin-Embedder-Policy", "require-corp");
  return new Response(response.body, { status: response.status, statusText: response.statusText, headers });
}

// The network first, so that a new version is seen; what was kept where there is none.
self.addEventListener("fetch", (event) => {
  if (event.request.method !== "GET") return;
  event.respondWith((async () => {
    const cache = await caches.open(CACHE);
    try {
      const response = await fetch(event.request);
      // What cannot be kept, as where no space is left, is shown all the same.
      if (response.ok) await cache.put(event.request, response.clone()).catch(() => undefined);
      return isolated(response);
    } catch (error) {
      const kept = await cache.match(event.request, { ignoreSearch: true });
      if (kept) return isolated(kept);
      throw error;
    }
  })());
});
