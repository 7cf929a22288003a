// Run by test_hatstand.py, which says where a service is: HATSTAND_URL, HATSTAND_KEY.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";

import { Hatstand, HatstandError, newId, sessionId } from "../../../clients/javascript/hatstand.js";

const URL_OF_SERVICE = process.env.HATSTAND_URL;
const shop = new Hatstand(URL_OF_SERVICE, { apiKey: process.env.HATSTAND_KEY });

const history = async (user) => {
  const answer = await fetch(`${URL_OF_SERVICE}/users/${encodeURIComponent(user)}`, {
    headers: { authorization: `Bearer ${process.env.HATSTAND_KEY}` },
  });
  return (await answer.json()).history;
};

/** A server that gives its answers one after the other, the last one for ever. */
async function serving(answers, check) {
  const requests = [];
  const server = createServer((request, response) => {
    let body = "";
    request.on("data", (part) => (body += part));
    request.on("end", () => {
      requests.push({ at: Date.now(), id: request.headers["x-request-id"], body: body && JSON.parse(body) });
      const [status, headers, content] = answers.length > 1 ? answers.shift() : answers[0];
      response.writeHead(status, headers).end(content);
    });
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  try {
    await check(`http://127.0.0.1:${server.address().port}`, requests);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

test("recommends, finds and compares", async () => {
  const answer = await shop.recommend({ history: ["i1", "i2"], k: 3, filter: { price: { lte: 30 } } });
  assert.equal(answer.items.length, 3);
  assert.ok(answer.recommendation_id);
  assert.equal((await shop.getItem("i7")).fields.price, 7);
  assert.equal((await shop.similarItems("i7", { k: 2 })).items.length, 2);
  assert.equal((await shop.searchItems("Audio thing", { limit: 4 })).items.length, 4);
});

test("what a visitor does goes to the user at sign-in", async () => {
  const visit = newId();
  shop.track({ session_id: visit, item_id: "i3" });
  shop.track({ session_id: visit, item_id: "i4", type: "purchase", properties: { price: 4 } });
  assert.equal((await shop.mergeSession(visit, "js/user")).moved, 2);
  assert.deepEqual((await history("js/user")).map((event) => event.item_id), ["i3", "i4"]);
});

test("every id reaches the service as it is", async () => {
  for (const user of ["a/../b", "a/b?c#d", "ünï☃", "...", "%2E"]) {
    const visit = newId();
    await shop.reportEvents([{ session_id: visit, item_id: "i1" }]);
    assert.equal((await shop.mergeSession(visit, user)).user_id, user);
  }
  await assert.rejects(shop.mergeSession(newId(), ".."), { code: "invalid_id" });
  assert.throws(() => shop.getItem("."), { code: "invalid_id" });
});

test("events go in batches and count once", async () => {
  for (let at = 0; at < 450; at++) shop.track({ user_id: "js-many", item_id: `i${(at % 60) + 1}`, event_id: `many-${at}` });
  await shop.flush();
  await shop.reportEvents([{ user_id: "js-many", item_id: "i1", event_id: "many-0" }]);
  assert.equal((await history("js-many")).length, 450);
});

test("a refused event is told and the others arrive", async () => {
  const told = [];
  const client = new Hatstand(URL_OF_SERVICE, {
    apiKey: process.env.HATSTAND_KEY,
    onUndelivered: (events, reason) => told.push([events[0].item_id, reason]),
  });
  client.track({ item_id: "i1" });
  client.track({ user_id: "js-refused", item_id: "i2" });
  await client.flush();
  assert.deepEqual(told.map(([item, reason]) => [item, reason.split(":")[0]]), [["i1", "missing_field"]]);
  assert.equal((await history("js-refused")).length, 1);
});

test("a refusal says what is wrong", async () => {
  await assert.rejects(shop.recommend({ user_id: "u", k: 0 }), (error) => {
    assert.ok(error instanceof HatstandError);
    assert.equal(error.status, 422);
    assert.equal(error.code, "invalid_request");
    assert.ok(error.requestId);
    return true;
  });
  await assert.rejects(new Hatstand(URL_OF_SERVICE, { apiKey: "wrong" }).getItem("i1"), { status: 401 });
});

test("what passes is tried again when Retry-After says, under the same request id", async () => {
  await serving([[429, { "retry-after": "1" }, "{}"], [503, {}, "<html>"], [200, {}, '{"items": []}']], async (url, requests) => {
    assert.deepEqual(await new Hatstand(url).searchItems("x"), { items: [] });
    assert.equal(requests.length, 3);
    assert.ok(requests[1].at - requests[0].at >= 1_000);
    assert.equal(new Set(requests.map((one) => one.id)).size, 1);
  });
});

test("attempts are counted, and no hour is waited for", async () => {
  await serving([[503, {}, ""]], async (url, requests) => {
    await assert.rejects(new Hatstand(url, { maxAttempts: 2 }).getItem("i1"), { status: 503 });
    assert.equal(requests.length, 2);
  });
  await serving([[503, { "retry-after": "3600" }, ""]], async (url, requests) => {
    await assert.rejects(new Hatstand(url).getItem("i1"), { retryAfterSeconds: 3600 });
    assert.equal(requests.length, 1);
  });
  await assert.rejects(new Hatstand("http://127.0.0.1:1", { maxAttempts: 1 }).getItem("i1"), { code: "no_answer" });
});

test("events wait while the service is away, and arrive with the ids that they had", async () => {
  const accepted = '{"accepted": 1, "duplicates": 0, "rejected": [], "event_token": null}';
  await serving([[503, {}, ""], [200, {}, accepted]], async (url, requests) => {
    const client = new Hatstand(url, { maxAttempts: 1, flushMs: 10 });
    client.track({ user_id: "u", item_id: "i1" });
    for (let turn = 0; turn < 500 && requests.length < 2; turn++) await new Promise((wake) => setTimeout(wake, 20));
    assert.equal(requests.length, 2);
    assert.deepEqual(requests[0].body, requests[1].body);
    await client.flush();
    assert.equal(requests.length, 2);
  });
});

test("a visitor keeps an id until it is forgotten", () => {
  const kept = new Map();
  const storage = { getItem: (name) => kept.get(name) ?? null, setItem: (name, value) => kept.set(name, value) };
  const first = sessionId({ storage });
  assert.equal(sessionId({ storage }), first);
  assert.notEqual(sessionId({ storage, forget: true }), first);
});
