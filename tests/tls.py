"""TLS in front of a Valkey, as a stunnel or a managed Redis has it, with certificates made on the spot."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = dt.timedelta(days=1)


@dataclass
class Authority:
    """Signs certificates; ``path`` is its own."""

    folder: Path
    name: str = "authority"

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        made = self._builder(self._subject, self._key, days=(-1, 1))
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        self.path = self.folder / f"{self.name}.pem"
        self.path.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, days: tuple[float, float] = (-1, 1)) -> Path:
        """Write a certificate and its key into one file; it holds from and until so many days from now."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            other: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            other = x509.DNSName(name)
        made = self._builder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key, days=days)
        made = made.add_extension(x509.SubjectAlternativeName([other]), critical=False)
        path = self.folder / f"{self.name}-{name}-{days[1]}.pem"
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        path.write_bytes(secret + made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: tuple[float, float]
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        dated = x509.CertificateBuilder(not_valid_before=now + days[0] * DAY, not_valid_after=now + days[1] * DAY)
        named = dated.subject_name(subject).issuer_name(self._subject).serial_number(x509.random_serial_number())
        return named.public_key(key.public_key())


@dataclass
class TlsFront:
    """Takes TLS on a port and passes on what is in it, from a thread of its own.

    Args:
        behind: the port of what it stands in front of.
        certificate: file with certificate and key.
        clients: the authority whose certificates clients must show.
    """

    behind: int
    certificate: Path
    clients: Path | None = None
    port: int = 0
    heard: list[bytes] = field(default_factory=list)  #: the first words of each connection that was let in

    def __enter__(self) -> Self:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        if self.clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.clients)
        started = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda *_: None)  # a handshake that fails is what is wanted

        async def serve() -> None:
            self._server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0, ssl=context)
            self.port = self._server.sockets[0].getsockname()[1]
            started.set()

        def run() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.create_task(serve())
            self._loop.run_forever()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert started.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        async def end() -> None:
            self._server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(65_536)
        if not first:
            writer.close()
            return
        self.heard.append(first)
        behind, to_behind = await asyncio.open_connection("127.0.0.1", self.behind)
        to_behind.write(first)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, to_behind))
                group.create_task(_copy(behind, writer))
        finally:
            writer.close()
            to_behind.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    writer.close()
