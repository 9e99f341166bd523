// A chat whose answers are predicted before they come, and measured while they do.
(() => {
  "use strict";
  const root = document.getElementById("playground");
  if (!root) return;
  const $ = (id) => document.getElementById(id);
  const headers = { "content-type": "application/json", ...JSON.parse(document.body.getAttribute("hx-headers")) };
  const messages = [];
  let predicted = null, asking = null, timer = null, drawn = 1;

  const sources = { app: "the history of the app", tenant: "the history of the tenant", global: "the history of all apps", prior: "the prior: no history" };
  const number = (value) => Math.round(value).toLocaleString("en");
  const seconds = (value) => value < 60 ? `${value < 10 ? value.toFixed(2) : value.toFixed(1)} s` : `${(value / 60).toFixed(1)} min`;
  const place = (tokens) => `${(100 * Math.log1p(Math.min(tokens, drawn)) / Math.log1p(drawn)).toFixed(1)}%`;
  const body = (text) => {
    const system = $("system").value.trim();
    return {
      model: root.dataset.model,
      messages: [...(system ? [{ role: "system", content: system }] : []), ...messages, { role: "user", content: text }],
      max_tokens: Number($("max").value) || undefined,
      temperature: Number($("temperature").value),
    };
  };

  const draw = (quantiles, most) => {
    drawn = Math.max(most, 2);
    const range = $("bar-range"), median = $("bar-median");
    range.setAttribute("x", place(quantiles.p10));
    range.setAttribute("width", `${Math.max(parseFloat(place(quantiles.p90)) - parseFloat(place(quantiles.p10)), 1)}%`);
    median.setAttribute("x1", place(quantiles.p50));
    median.setAttribute("x2", place(quantiles.p50));
    median.setAttribute("visibility", "visible");
    $("bar-actual").setAttribute("x2", "0");
  };
  const between = (band) => band ? `${seconds(band.p50)} (${seconds(band.p10)} – ${seconds(band.p90)})` : "–";
  const show = (found) => {
    predicted = found;
    const q = found.quantiles;
    $("band").textContent = `${number(q.p10)} – ${number(q.p90)} tokens`;
    $("median").textContent = `${number(q.p50)} tokens`;
    $("source").textContent = found.source === "model" ? "predicted by the model" : `predicted by ${sources[found.source] ?? found.source}`;
    $("start").textContent = between(found.expected_start_s);
    $("end").textContent = between(found.expected_finish_s);
    draw(q, Math.min(found.max_tokens, 2 * q.p90 + 10));
  };
  const failure = async (answer) => {
    try { return (await answer.json()).error.message; } catch { return `the gateway answered ${answer.status}`; }
  };
  const predict = async () => {
    const text = $("text").value.trim();
    if (!text || asking) return;
    const answer = await fetch("/page/playground/predict", { method: "POST", headers, body: JSON.stringify(body(text)) });
    if (asking) return;
    if (answer.ok) show(await answer.json());
    else $("progress").textContent = await failure(answer);
  };
  const soon = () => { clearTimeout(timer); timer = setTimeout(() => predict().catch(() => {}), 400); };
  for (const id of ["text", "system", "max", "temperature"]) $(id).addEventListener("input", soon);

  const turn = (who, text) => {
    $("nothing").hidden = true;
    const made = document.createElement("div"), name = document.createElement("b"), words = document.createElement("p");
    made.className = `turn ${who}`;
    name.textContent = who === "user" ? "You" : root.dataset.model;
    words.textContent = text;
    made.append(name, words);
    $("turns").append(made);
    $("turns").scrollTop = $("turns").scrollHeight;
    return words;
  };
  const past = (cells) => {
    $("none").hidden = true;
    $("past").hidden = false;
    const row = document.createElement("tr");
    cells.forEach((text, index) => {
      const cell = document.createElement("td");
      cell.textContent = text;
      if (index > 0 && index < 4) cell.className = "figure";
      row.append(cell);
    });
    $("past").tBodies[0].prepend(row);
  };

  // Lines of the stream: comments say where the request waits, events have the answer.
  const lines = async function* (answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const parts = (rest + value).split("\n");
      rest = parts.pop();
      yield* parts;
    }
  };
  const ask = async (text) => {
    const began = performance.now(), since = () => (performance.now() - began) / 1000;
    const stop = new AbortController();
    asking = stop;
    const wanted = { ...body(text), stream: true, stream_options: { include_usage: true, continuous_usage_stats: true } };
    turn("user", text);
    const words = turn("model", "");
    const before = predicted;
    let tokens = 0, started = null, finish = null, written = "", expected = null;
    $("progress").textContent = "Sent.";
    try {
      const answer = await fetch("/page/playground/chat", { method: "POST", headers, body: JSON.stringify(wanted), signal: stop.signal });
      if (!answer.ok) throw new Error(await failure(answer));
      const wait = answer.headers.get("x-lmaas-expected-wait-ms");
      expected = wait === null ? null : Number(wait) / 1000;
      for await (const line of lines(answer)) {
        if (line.startsWith(": waiting")) { $("progress").textContent = `${since().toFixed(1)} s: ${line.slice(2)}`; continue; }
        if (!line.startsWith("data: ") || line === "data: [DONE]") continue;
        const event = JSON.parse(line.slice(6));
        if (event.error) throw new Error(event.error.message);
        const choice = event.choices[0];
        if (choice?.delta?.content) {
          started ??= since();
          written += choice.delta.content;
          words.textContent = written;
          $("turns").scrollTop = $("turns").scrollHeight;
        }
        finish = choice?.finish_reason ?? finish;
        tokens = event.usage?.completion_tokens ?? tokens;
        if (started !== null) {
          $("bar-actual").setAttribute("x2", place(tokens));
          $("progress").textContent = `${number(tokens)} tokens in ${seconds(since())}`;
        }
      }
      messages.push({ role: "user", content: text }, { role: "assistant", content: written });
      $("progress").textContent = `${number(tokens)} tokens in ${seconds(since())}: ${finish === "length" ? "cut off at the limit" : "complete"}.`;
    } catch (error) {
      $("progress").textContent = error.name === "AbortError" ? "Stopped." : error.message;
      if (!written) words.textContent = $("progress").textContent;
    } finally {
      asking = null;
    }
    if (before && finish) {
      const { p10, p90 } = before.quantiles;
      const verdict = finish === "length" ? "cut off" : tokens > p90 ? "above" : tokens < Math.round(p10) ? "below" : "within";
      past([`${number(p10)} – ${number(p90)}`, number(tokens), expected === null ? "–" : seconds(expected), started === null ? "–" : seconds(started), verdict]);
    }
  };
  const busy = (on) => { $("send").disabled = on; $("clear").disabled = on; $("stop").hidden = !on; };
  $("ask").addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = $("text").value.trim();
    if (!text || asking) return;
    clearTimeout(timer);
    busy(true);
    if (!predicted) await predict().catch(() => {});
    $("text").value = "";
    await ask(text);
    predicted = null;
    busy(false);
    $("text").focus();
  });
  $("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); $("ask").requestSubmit(); }
  });
  $("stop").addEventListener("click", () => asking?.abort());
  $("clear").addEventListener("click", () => {
    messages.length = 0;
    for (const each of [...$("turns").querySelectorAll(".turn")]) each.remove();
    $("nothing").hidden = false;
    $("text").focus();
  });
})();
