"""The composition root: builds every part, hands each what it needs, starts and stops them in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import resource
import signal
import socket
import ssl
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moonfast import log as logs
from moonfast.access.cors import OriginRule
from moonfast.access.gate import Gate
from moonfast.access.trusted import TrustedClients
from moonfast.access.users import Users
from moonfast.api.invoke import Invoker
from moonfast.api.local import LocalCalls
from moonfast.api.reference_api import ReferenceApi
from moonfast.api.table import EndpointTable
from moonfast.component import Audience, Listening, Restart
from moonfast.config.load import Config, keep_backup, load
from moonfast.config.sections import AuthorizationConfig, DataStoreConfig, ServerConfig
from moonfast.config.source import render
from moonfast.data_path import DataFolder, Options, claim
from moonfast.errors import MoonfastError, StartError
from moonfast.files.manager import FileManager
from moonfast.host.templates import Templates
from moonfast.klippy.api import PrinterApi
from moonfast.klippy.session import Klippy
from moonfast.pages import load_pages
from moonfast.registry import Components
from moonfast.rpc.jsonrpc import JsonRpc
from moonfast.rpc.over_http import JsonRpcOverHttp
from moonfast.server_api import Facts, ServerApi
from moonfast.speedups import FALLBACK_REASON, IMPLEMENTATION
from moonfast.state.gcode_store import GcodeStore
from moonfast.state.job import Job
from moonfast.state.status import Status
from moonfast.state.temperature_store import TemperatureStore
from moonfast.storage.backups import Backups
from moonfast.storage.database import Database
from moonfast.transports.http import HttpConnection, Site
from moonfast.transports.hub import Hub
from moonfast.transports.identify import ConnectionApi
from moonfast.transports.redirect import RedirectApi
from moonfast.transports.tls import Certificates
from moonfast.transports.unix import UnixServer
from moonfast.transports.websocket import KlippyBridge, RpcWebSocket
from moonfast.version import MOONFAST_VERSION

log = logging.getLogger(__name__)

BACKLOG = 1024
MAX_DESCRIPTORS = 65536
"""The limit of open files is raised to this, where the system allows it."""
SIMULATED_HOST = "127.0.0.1"
RESTART_DELAY_S = 0.05
"""The answer to the request for a restart goes out first."""


class Server:
    """One server. To be built and used inside of a running loop; two in one process share nothing.

    `restart` is called when a client asks for a restart; `warnings` are shown beside those of the configuration.
    """

    def __init__(
        self,
        options: Options,
        config: Config,
        *,
        restart: Callable[[], None] = lambda: None,
        log_rollover: Callable[[], None] | None = None,
        warnings: list[str] | None = None,
        klippy_path: str | None = None,
    ) -> None:
        self._options, self._config = options, config
        self._settings = config.section(ServerConfig)
        access, store = config.section(AuthorizationConfig), config.section(DataStoreConfig)
        self.hub = Hub(self._settings.max_websocket_connections)
        self.table = EndpointTable()
        self._invoker = Invoker()
        self.rpc = JsonRpc(self.table, self._invoker, lambda method: self.klippy.refuse_unknown(method))
        self._trusted = TrustedClients(access.trusted_clients)
        self._origins = OriginRule(access.cors_domains, self._trusted, [socket.gethostname()])
        self._warnings = [*(warnings or ()), *self._trusted.warnings, *self._origins.warnings]

        self.status = Status(self.hub.pump)
        self._gcode_store = GcodeStore(store.gcode_store_size)
        self._temperatures = TemperatureStore(store.temperature_store_size, self.status.table.field)
        self.job = Job(self.status.table)
        self._backups = Backups(Path(options.data_path))
        self._database = self._backups.database
        users = Users(self._database)
        self._gate = Gate(self._trusted, users, force_logins=access.force_logins, uses_api_key=access.enable_api_key)
        self._gate.on_change = lambda: self.hub.assess(self._gate.assess)
        self.klippy = Klippy(
            klippy_path or self._settings.klippy_uds_address,
            status=self.status,
            table=self.table,
            version=MOONFAST_VERSION,
            emit=self.hub.emit,
            emit_raw=self.hub.emit_raw,
            on_response=self._gcode_store.add_response,
            on_ready=self._temperatures.start,
            on_lost=self._klippy_lost,
            cork=self.hub.pump.cork,
            uncork=self.hub.pump.uncork,
        )
        self.status.watch("webhooks", self.klippy.observe)
        self.status.watch("print_stats", self.job.observe)
        self.hub.on_drained = self.status.catch_up
        self.hub.on_closed.append(self.klippy.subscriptions.forget)

        local = LocalCalls(self.table, self._invoker)
        self._listening = Listening()
        self.components = Components(config, self.hub.emit)
        parts: dict[type, object] = {
            Options: options,
            Restart: Restart(restart),
            Audience: Audience(lambda: self.hub.websocket_count, lambda: self.hub.listener_count),
            Listening: self._listening,
            Config: config,
            Database: self._database,
            Backups: self._backups,
            TrustedClients: self._trusted,
            Users: users,
            Gate: self._gate,
            Klippy: self.klippy,
            Status: self.status,
            Job: self.job,
            LocalCalls: local,
            JsonRpc: self.rpc,
            Templates: Templates(config.secrets, local.call_method),
        }
        self.components.build(parts)
        self._files = self.components.find(FileManager)
        self._collect_endpoints(restart, log_rollover)
        self._site = Site(
            table=self.table,
            invoker=self._invoker,
            origins=self._origins,
            trusted=self._trusted,
            gate=self._gate,
            pump=self.hub.pump,
            websockets={
                "/websocket": lambda upgrade: RpcWebSocket(self.hub, self.rpc, upgrade.call),
                "/klippysocket": lambda upgrade: KlippyBridge(self.hub, self.klippy.path, upgrade.call),
            },
            open_sockets=("/websocket",),
            pages=load_pages(),
            has_room=self.hub.has_room,
            refuse_unknown=self.klippy.refuse_unknown,
            prefix=_prefix(self._settings.route_prefix),
            use_xheaders=self._settings.use_xheaders,
        )
        self._unix = UnixServer(options.unix_socket_path, self.hub, self.rpc)
        self._certificates: Certificates | None = None
        self._listeners: list[asyncio.Server] = []
        self.addresses: list[str] = []  # URLs at which this server listens

    def _collect_endpoints(self, restart: Callable[[], None], log_rollover: Callable[[], None] | None) -> None:
        facts = Facts(
            is_klippy_connected=lambda: self.klippy.is_connected,
            klippy_state=lambda: self.klippy.state,
            missing_requirements=lambda: self.klippy.missing_requirements,
            websocket_count=lambda: self.hub.websocket_count,
            components=lambda: [*BUILT_IN, *self.components.running()],
            failed_components=lambda: self.components.failed,
            warnings=lambda: [
                *self._warnings,
                *(text for component in self.components.running().values() for text in component.warnings),
            ],
            directories=lambda: self._files.roots.names() if self._files is not None else [],
            config_view=self._config.view,
        )
        rollovers = {"moonraker": log_rollover or _no_log, "klipper": _no_klipper_rollover}
        for owner in (
            ServerApi(facts, restart, rollovers),
            ConnectionApi(self.hub, self._gate, self.klippy.methods.register, self.klippy.methods.remove),
            PrinterApi(self.klippy, self.hub.find, self._gcode_store.add_command),
            JsonRpcOverHttp(self.rpc),
            ReferenceApi(self.table, MOONFAST_VERSION),
            RedirectApi(self._origins),
            self._gcode_store,
            self._temperatures,
            *(part for component in self.components.built().values() for part in (component, *component.parts)),
        ):
            self.table.collect(owner)
        self.table.complete()

    def _klippy_lost(self) -> None:
        self._temperatures.pause()
        self.job.clear()

    async def start(self) -> None:
        """Serve. StartError: a port, a socket or a certificate cannot be used; nothing is left open then."""
        self._warnings += self._config.all_warnings(self.components.names())
        try:
            await self._backups.start()
            await self.components.start()
            await self._unix.start()
            await self._listen()
        except BaseException:
            await self.stop()
            raise
        self.klippy.start()
        log.info("Listening at %s", ", ".join(self.addresses))

    async def _listen(self) -> None:
        settings = self._settings
        host = settings.host
        if self._options.simulate and not self._config.is_given("server", "host"):
            host = SIMULATED_HOST
        await self._listen_on(host, settings.port, None)
        certificate, key = self._certificate_paths()
        if certificate is not None:
            self._certificates = Certificates(certificate, key)
            self._certificates.start()
            await self._listen_on(host, settings.ssl_port, self._certificates.context)
        self._listening.is_complete.set()

    def _certificate_paths(self) -> tuple[str | None, str]:
        folder = os.path.join(self._options.data_path, "certs")
        certificate = self._settings.ssl_certificate_path or os.path.join(folder, "moonraker.cert")
        key = self._settings.ssl_key_path or os.path.join(folder, "moonraker.key")
        is_wanted = self._settings.ssl_certificate_path is not None
        return (certificate if is_wanted or os.path.exists(certificate) else None), key

    async def _listen_on(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        for sock in _bind(host, port):
            server = await loop.create_server(
                lambda: HttpConnection(self._site), sock=sock, ssl=context, backlog=BACKLOG, start_serving=True
            )
            self._listeners.append(server)
            name, bound = sock.getsockname()[:2]
            self._listening.sockets.append((name, bound, context is not None))
            shown = f"[{name}]" if ":" in name else name
            self.addresses.append(f"{'https' if context else 'http'}://{shown}:{bound}/")

    async def stop(self) -> None:
        """Stop in under two seconds: close connections cleanly, end what waits, let go of everything."""
        for server in self._listeners:
            server.close()
        if self._certificates is not None:
            self._certificates.stop()
        await self._invoker.stop()
        await self.hub.stop()
        self._site.stop()
        await self.components.stop()  # they learn that the server ends, not that Klippy is gone
        await self.klippy.stop()
        self._temperatures.pause()
        await self._unix.stop()
        await self._database.stop()
        self._listeners.clear()


BUILT_IN = (
    "application",
    "websockets",
    "jsonrpc",
    "klippy_connection",
    "klippy_apis",
    "data_store",
    "shell_command",
    "proc_stats",
    "job_state",
    "extensions",
)
"""What every server has, by the names that clients look for."""


def _prefix(text: str | None) -> str:
    """`route_prefix` as "/printer1"; slashes around it do not matter."""
    inner = (text or "").strip().strip("/")
    return f"/{inner}" if inner else ""


def _no_log() -> None:
    raise MoonfastError("File Logging Disabled")


def _no_klipper_rollover() -> None:
    raise MoonfastError("Klipper keeps its log open while it runs, and its service cannot be stopped from here yet")


def _bind(host: str, port: int) -> list[socket.socket]:
    """Open the listening sockets. StartError: the port is taken, or the address is not one of this machine's."""
    wanted: list[tuple[int, str]] = [(socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")] if host == "all" else []
    try:
        if host != "all":
            name = host.encode("ascii") if host.isascii() else host  # text would load the tables of Unicode names
            found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            wanted = list(dict.fromkeys((item[0], str(item[4][0])) for item in found))
    except socket.gaierror as exc:
        raise StartError(f"[server] host: '{host}' is not an address: {exc.strerror}") from None
    opened: list[socket.socket] = []
    for family, address in wanted:
        try:
            sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError:
            if host == "all":
                continue  # a machine without IPv6
            raise StartError(f"[server] host: this machine cannot use '{host}'") from None
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address, port))
        except OSError as exc:
            sock.close()
            if host == "all" and family == socket.AF_INET6 and opened:
                continue
            for other in opened:
                other.close()
            raise StartError(
                f"port {port} of {address} cannot be used: {exc.strerror}. Stop what uses it, or change 'port' in "
                "[server]."
            ) from None
        opened.append(sock)
    return opened


def run(options: Options) -> int:
    """Run a server until SIGTERM or SIGINT; the exit status. StartError: it cannot start."""
    folder = claim(options)
    log_ = logs.start(options)
    try:
        _raise_descriptor_limit()
        version = f"moonfast {MOONFAST_VERSION}, {IMPLEMENTATION}, Python {sys.version.split()[0]}"
        log_.pin("version", version)
        print(version, file=sys.stderr)
        if FALLBACK_REASON is not None:
            log.warning(
                "The compiled parts are missing, the slower Python ones run instead (%s). Install a compiler and "
                "install moonfast again.",
                FALLBACK_REASON,
            )
        with asyncio.Runner(loop_factory=_loop_factory(options), debug=options.asyncio_debug) as runner:
            return runner.run(_run(options, folder, log_))
    except MoonfastError as exc:
        log.error("%s", exc)
        raise
    finally:
        log_.close()
        folder.release()


def _loop_factory(options: Options) -> Callable[[], asyncio.AbstractEventLoop]:
    if options.wants_uvloop:
        with contextlib.suppress(ImportError):
            import uvloop

            return uvloop.new_event_loop
    return asyncio.new_event_loop


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _run(options: Options, folder: DataFolder, log_: logs.Log) -> int:
    loop = asyncio.get_running_loop()
    wake = asyncio.Event()
    is_stopping = False

    def stop() -> None:
        nonlocal is_stopping
        is_stopping = True
        wake.set()

    def restart() -> None:
        loop.call_later(RESTART_DELAY_S, wake.set)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    simulator: Any = None
    klippy_path = None
    if options.simulate:
        klippy_path = os.path.join(options.data_path, "comms", "simulated_klippy.sock")
        simulator = await _start_simulator(options, klippy_path)
    try:
        while not is_stopping:
            wake.clear()
            config = load(options.config_file, options.data_path)
            log_.set_verbose(config.section(ServerConfig).enable_debug_logging)
            log_.pin("config", f"Configuration {options.config_file}\n{render(config.source)}")
            server = Server(
                options,
                config,
                restart=restart,
                log_rollover=log_.rollover,
                warnings=[*folder.warnings, *log_.warnings],
                klippy_path=klippy_path,
            )
            await server.start()
            keep_backup(config)
            gc.collect()
            gc.freeze()  # what is here now stays: later collections need not look at it
            print(f"moonfast: open {_shown(server.addresses)}", file=sys.stderr)
            await wake.wait()
            log.info("Stopping" if is_stopping else "Restarting")
            await server.stop()
            gc.unfreeze()
    finally:
        if simulator is not None:
            await simulator.stop()
    return 0


def _shown(addresses: list[str]) -> str:
    name = socket.gethostname()
    return ", ".join(item.replace("0.0.0.0", name).replace("[::]", name) for item in dict.fromkeys(addresses))


async def _start_simulator(options: Options, path: str) -> Any:
    from moonfast.simulator.klippy import SimulatedKlippy

    folder = options.data_path
    simulator = SimulatedKlippy(
        path,
        gcodes_dir=os.path.join(folder, "gcodes"),
        config_dir=os.path.join(folder, "config"),
        log_path=os.path.join(folder, "logs", "klippy.log"),
    )
    await simulator.start()
    return simulator
