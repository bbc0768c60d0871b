"""The sections of the built-in parts. Names and defaults are Moonraker's (its documentation, "Configuration")."""

from __future__ import annotations

from typing import Annotated, Literal

from moonfast.config.options import Option, Path, Section

PORT_MAXIMUM = 65535


class ServerConfig(Section, name="server"):
    host: Annotated[
        str,
        Option(
            doc="Address to listen on. `0.0.0.0` is every IPv4 address of this machine, `all` every IPv4 and IPv6 one."
        ),
    ] = "0.0.0.0"
    port: Annotated[int, Option(minimum=1, maximum=PORT_MAXIMUM, doc="Port for HTTP and WebSocket.")] = 7125
    ssl_port: Annotated[
        int,
        Option(
            minimum=1,
            maximum=PORT_MAXIMUM,
            doc="Port for HTTPS and secure WebSocket, in use when there is a certificate and a key.",
        ),
    ] = 7130
    klippy_uds_address: Annotated[
        Path, Option(doc="Unix socket on which Klippy listens (its command line option `-a`).")
    ] = Path("/tmp/klippy_uds")
    max_upload_size: Annotated[int, Option(minimum=1, unit="MiB", doc="Largest file that can be uploaded.")] = 1024
    max_websocket_connections: Annotated[
        int, Option(minimum=1, doc="Connections at once; one more is refused with status 503.")
    ] = 1000
    ssl_certificate_path: Annotated[
        Path | None,
        Option(doc="Certificate, PEM. Without it: `certs/moonraker.cert` in the data folder, if it exists."),
    ] = None
    ssl_key_path: Annotated[
        Path | None, Option(doc="Key of the certificate, PEM. Without it: `certs/moonraker.key` in the data folder.")
    ] = None
    route_prefix: Annotated[
        str | None, Option(doc="Path before that of every endpoint, for use behind a proxy: `/printer1`.")
    ] = None
    use_xheaders: Annotated[
        bool,
        Option(
            doc="Believe `X-Forwarded-For` and `X-Real-IP`, if the request comes from a proxy in `trusted_clients`."
        ),
    ] = True
    enable_debug_logging: Annotated[
        bool, Option(doc="Log more.", deprecated="start moonfast with -v, or set MOONRAKER_VERBOSE_LOGGING=y.")
    ] = False
    config_path: Annotated[
        Path | None,
        Option(
            doc="Folder of the configuration files, from before there was a data folder.",
            deprecated="configuration files belong into the folder 'config' of the data folder.",
        ),
    ] = None
    log_path: Annotated[
        Path | None,
        Option(
            doc="Folder of the logs, from before there was a data folder.",
            deprecated="logs belong into the folder 'logs' of the data folder.",
        ),
    ] = None
    database_path: Annotated[
        Path | None,
        Option(
            doc="Folder of the database, from before there was a data folder.",
            deprecated="the database belongs into the folder 'database' of the data folder.",
        ),
    ] = None


class DataStoreConfig(Section, name="data_store"):
    temperature_store_size: Annotated[
        int,
        Option(
            minimum=1,
            maximum=86400,
            unit="samples",
            doc="Temperatures kept for each sensor, one a second.",
            legacy=(("server", "temperature_store_size"),),
        ),
    ] = 1200
    gcode_store_size: Annotated[
        int,
        Option(
            minimum=1,
            maximum=100_000,
            unit="messages",
            doc="Gcode commands and responses kept.",
            legacy=(("server", "gcode_store_size"),),
        ),
    ] = 1000


class AuthorizationConfig(Section, name="authorization"):
    trusted_clients: Annotated[
        list[str],
        Option(
            doc="Who needs no login: addresses (`192.168.1.30`), networks (`192.168.1.0/24`), domain names "
            "(`my-pc.lan`)."
        ),
    ] = []
    cors_domains: Annotated[
        list[str],
        Option(
            doc="Web sites whose pages may use this server: `http://my.mainsail.xyz`, `*.local`, `*://app.fluidd.xyz`. "
            "A `*` stands for any text, but not in the top-level domain."
        ),
    ] = []
    force_logins: Annotated[bool, Option(doc="Trusted clients too have to log in, as soon as there is a user.")] = False
    login_timeout: Annotated[
        int, Option(minimum=1, maximum=36500, unit="days", doc="A login ends after this time.")
    ] = 90
    max_login_attempts: Annotated[
        int | None, Option(minimum=1, doc="Failed logins after which an address is locked out until the restart.")
    ] = None
    enable_api_key: Annotated[bool, Option(doc="Accept the API key.")] = True
    default_source: Annotated[
        Literal["moonraker", "ldap"], Option(doc="Where a user's password is checked who does not name a source.")
    ] = "moonraker"
    rehash_passwords: Annotated[
        bool,
        Option(
            doc="Store passwords in a stronger form at the next login. Moonraker cannot check them any more after that."
        ),
    ] = False
    enabled: Annotated[
        bool,
        Option(
            doc="Not used: authorization cannot be switched off.",
            deprecated="it has no effect. Remove it; name addresses that need no login in 'trusted_clients'.",
        ),
    ] = True
    api_key_file: Annotated[
        Path | None,
        Option(
            doc="Not used: the API key is in the database.",
            deprecated="it has no effect. Remove it; the API key is in the database.",
        ),
    ] = None


class SecretsConfig(Section, name="secrets"):
    secrets_path: Annotated[
        Path | None,
        Option(doc="File with passwords and tokens, ini or json. Without it: `moonraker.secrets` in the data folder."),
    ] = None


CORE: tuple[type[Section], ...] = (ServerConfig, SecretsConfig, DataStoreConfig, AuthorizationConfig)
