// The page at "/": one WebSocket, no framework. Whatever comes from the server is shown as text, never as HTML.
"use strict";

const RETRY_MS = [500, 1000, 2000, 4000, 8000];
const MAX_SAMPLES = 1200;
const MAX_HISTORY = 20;
const MAX_LOG = 200;
const COLOURS = ["#d8442f", "#0b7bd4", "#2d9a4b", "#a05bd0", "#c98a00", "#00a0a8", "#d0508f", "#7a7f87"];
const METHODS = ["server.info", "server.config", "server.restart", "server.temperature_store", "server.gcode_store",
  "server.extensions.list", "printer.info", "printer.objects.list", "printer.objects.query", "printer.objects.subscribe",
  "printer.gcode.script", "printer.gcode.help", "printer.query_endstops.status", "printer.print.start",
  "printer.print.pause", "printer.print.resume", "printer.print.cancel", "printer.restart", "printer.firmware_restart",
  "printer.emergency_stop"];

const byId = (id) => document.getElementById(id);
const base = new URL(".", location.href);
const wsUrl = new URL("websocket", base);
wsUrl.protocol = base.protocol === "https:" ? "wss:" : "ws:";

let socket = null;
let attempts = 0;
let lastId = 0;
const waiting = new Map();
const series = new Map(); // sensor -> {temperatures, colour, shown}
const status = {};
const logLines = [];

// connection

function connect() {
  socket = new WebSocket(wsUrl);
  socket.onopen = opened;
  socket.onmessage = (event) => received(JSON.parse(event.data));
  socket.onclose = () => {
    for (const [, reject] of waiting.values()) reject({ message: "The connection was lost." });
    waiting.clear();
    badge("link", "wait", attempts ? "not connected, trying again" : "connection lost, trying again");
    badge("state", "wait", "unknown");
    byId("message").textContent = "No connection to the server. Check that it runs; this page tries again by itself.";
    setTimeout(connect, RETRY_MS[Math.min(attempts++, RETRY_MS.length - 1)]);
  };
}

function call(method, params) {
  return new Promise((resolve, reject) => {
    if (!socket || socket.readyState !== WebSocket.OPEN) {
      reject({ message: "Not connected: wait until the page has found the server again." });
      return;
    }
    const id = ++lastId;
    waiting.set(id, [resolve, reject]);
    socket.send(JSON.stringify(params === undefined ? { jsonrpc: "2.0", method, id } : { jsonrpc: "2.0", method, params, id }));
  });
}

async function opened() {
  attempts = 0;
  badge("link", "good", "connected");
  try {
    await call("server.connection.identify",
      { client_name: "moonfast page", version: "1", type: "web", url: location.origin });
    await refresh();
  } catch (error) {
    byId("message").textContent = error.message;
  }
}

function received(message) {
  const pair = waiting.get(message.id);
  if (pair && message.method === undefined) {
    waiting.delete(message.id);
    if (message.error) pair[1](message.error); else pair[0](message.result);
    return;
  }
  if (message.method === undefined) return;
  showNotification(message);
  if (message.method === "notify_status_update") update(message.params[0]);
  else if (/^notify_klippy_(ready|shutdown|disconnected)$/.test(message.method)) refresh().catch(() => {});
}

// printer

async function refresh() {
  const info = await call("server.info", { raw: true });
  byId("version").textContent = info.moonfast_version;
  showWarnings(info);
  badge("state", info.klippy_state === "ready" ? "good" : info.klippy_state === "startup" ? "wait" : "bad", info.klippy_state);
  if (!info.klippy_connected) {
    byId("message").textContent = "Klipper is not connected. Check that its service runs, and that klippy_uds_address in " +
      "[server] of moonraker.conf is the path of its socket (the -a option of its command line).";
    byId("job").hidden = true;
    return;
  }
  const printer = await call("printer.info");
  byId("message").textContent = printer.state_message;
  if (info.klippy_state !== "ready") {
    setTimeout(() => refresh().catch(() => {}), 2000);
    return;
  }
  await showStore();
  const objects = { print_stats: null, virtual_sdcard: ["progress"], webhooks: null };
  for (const name of series.keys()) objects[name] = ["temperature", "target"];
  update((await call("printer.objects.subscribe", { objects })).status);
}

async function showStore() {
  const store = await call("server.temperature_store", { include_monitors: false });
  series.clear();
  Object.keys(store).sort().forEach((name, index) => {
    const temperatures = store[name].temperatures || [];
    const first = temperatures.findIndex((value) => value !== 0); // zeros stand for the time before the first sample
    series.set(name, { temperatures: first < 0 ? [] : temperatures.slice(first), colour: COLOURS[index % COLOURS.length] });
  });
  const list = byId("sensors");
  list.replaceChildren();
  for (const [name, sensor] of series) {
    const item = document.createElement("li");
    item.style.borderColor = sensor.colour;
    const label = document.createElement("span");
    label.textContent = name.replace(/^temperature_(sensor|fan) /, "");
    sensor.shown = document.createElement("strong");
    item.append(label, sensor.shown);
    list.append(item);
  }
  byId("no-heat").hidden = series.size > 0;
}

function update(changes) {
  for (const [name, fields] of Object.entries(changes)) status[name] = Object.assign(status[name] || {}, fields);
  for (const [name, sensor] of series) {
    const now = status[name];
    if (!now || typeof now.temperature !== "number") continue;
    const target = typeof now.target === "number" && now.target > 0 ? ` / ${now.target.toFixed(0)}` : "";
    sensor.shown.textContent = `${now.temperature.toFixed(1)}${target} °C`;
  }
  showJob();
}

function showJob() {
  const stats = status.print_stats || {};
  const isActive = stats.state === "printing" || stats.state === "paused";
  byId("job").hidden = !isActive;
  if (!isActive) return;
  const progress = (status.virtual_sdcard || {}).progress || 0;
  byId("job-name").textContent = stats.filename;
  byId("job-text").textContent = `${stats.state}, ${Math.round(progress * 100)} %, ${duration(stats.print_duration)}`;
  byId("job-bar").value = progress;
}

function duration(seconds) {
  const minutes = Math.floor((seconds || 0) / 60);
  return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function showWarnings(info) {
  const texts = [...info.warnings];
  for (const name of info.missing_klippy_requirements) {
    texts.push(`Klipper's configuration has no [${name}], which front ends need. Add it to printer.cfg.`);
  }
  byId("warn-section").hidden = texts.length === 0;
  byId("warnings").replaceChildren(...texts.map((text) => {
    const item = document.createElement("li");
    item.textContent = text;
    return item;
  }));
}

// plot: a sample a second, as the server keeps them

setInterval(() => {
  for (const [name, sensor] of series) {
    const now = status[name];
    sensor.temperatures.push(now && typeof now.temperature === "number" ? now.temperature : null);
    if (sensor.temperatures.length > MAX_SAMPLES) sensor.temperatures.shift();
  }
  draw();
}, 1000);
addEventListener("resize", draw);

function draw() {
  const canvas = byId("plot");
  canvas.hidden = series.size === 0;
  if (canvas.hidden) return;
  const width = canvas.clientWidth, height = canvas.clientHeight, ratio = devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  const style = getComputedStyle(document.documentElement);
  const all = [...series.values()].flatMap((sensor) => sensor.temperatures.filter((value) => value !== null));
  const top = Math.max(50, Math.ceil((Math.max(0, ...all) + 5) / 50) * 50);
  const left = 34, bottom = height - 6;
  const y = (value) => bottom - (bottom - 8) * value / top;
  pen.font = "12px system-ui, sans-serif";
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  pen.fillStyle = style.getPropertyValue("--quiet");
  pen.strokeStyle = style.getPropertyValue("--line");
  pen.lineWidth = 1;
  for (let value = 0; value <= top; value += top / 5) {
    pen.fillText(value.toFixed(0), left - 6, y(value));
    pen.beginPath();
    pen.moveTo(left, y(value));
    pen.lineTo(width, y(value));
    pen.stroke();
  }
  const step = (width - left) / (MAX_SAMPLES - 1);
  pen.lineWidth = 2;
  for (const sensor of series.values()) {
    pen.strokeStyle = sensor.colour;
    pen.beginPath();
    let isDown = false;
    sensor.temperatures.forEach((value, index) => {
      if (value === null) { isDown = false; return; }
      const x = width - (sensor.temperatures.length - 1 - index) * step;
      if (isDown) pen.lineTo(x, y(value)); else pen.moveTo(x, y(value));
      isDown = true;
    });
    pen.stroke();
  }
}

// console

byId("console").addEventListener("submit", async (event) => {
  event.preventDefault();
  const method = byId("method").value.trim();
  const text = byId("params").value.trim();
  const error = byId("params-error");
  error.textContent = "";
  let params;
  if (text) {
    try {
      params = JSON.parse(text);
    } catch (fault) {
      error.textContent = `The params are not JSON: ${fault.message}`;
      return;
    }
    if (typeof params !== "object" || params === null || Array.isArray(params)) {
      error.textContent = 'The params must be an object: {"name": value}';
      return;
    }
  }
  remember(method, text);
  const answer = byId("answer");
  answer.textContent = "waiting for the answer ...";
  try {
    answer.textContent = JSON.stringify(await call(method, params), null, 2);
  } catch (fault) {
    answer.textContent = `Error ${fault.code ?? ""}: ${fault.message}` + (fault.data ? `\n${JSON.stringify(fault.data, null, 2)}` : "");
  }
});

function remember(method, params) {
  const list = byId("history");
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = `${method} ${params}`;
  button.addEventListener("click", () => { byId("method").value = method; byId("params").value = params; });
  const item = document.createElement("li");
  item.append(button);
  list.prepend(item);
  while (list.children.length > MAX_HISTORY) list.lastChild.remove();
}

byId("log-on").addEventListener("change", (event) => { byId("log").hidden = !event.target.checked; });

function showNotification(message) {
  if (!byId("log-on").checked) return;
  logLines.push(`${new Date().toLocaleTimeString()} ${message.method} ${JSON.stringify(message.params ?? [])}`);
  if (logLines.length > MAX_LOG) logLines.shift();
  const log = byId("log");
  log.textContent = logLines.join("\n");
  log.scrollTop = log.scrollHeight;
}

async function offerMethods() {
  let names = METHODS;
  try {
    const document_ = await (await fetch("server/openapi.json")).json();
    const found = Object.values(document_.paths).flatMap(Object.values).map((item) => item["x-jsonrpc-method"]);
    names = [...new Set([...METHODS, ...found.filter(Boolean)])];
  } catch { /* the built-in list does, too */ }
  byId("methods").replaceChildren(...names.sort().map((name) => {
    const option = document.createElement("option");
    option.value = name;
    return option;
  }));
}

// beginning

function badge(id, kind, text) {
  byId(id).className = `badge ${kind}`;
  byId(id).textContent = text;
}

byId("host-address").textContent = base.host + base.pathname.replace(/\/$/, "");
byId("screen-address").textContent = `moonraker_host: ${base.hostname}, moonraker_port: ${base.port || (base.protocol === "https:" ? 443 : 80)}`;
byId("http-address").textContent = base.href.replace(/\/$/, "");
byId("ws-address").textContent = wsUrl.href;
offerMethods();
connect();
