"""Declarations, names and lookups."""

from __future__ import annotations

import pytest

from moonfast.api.call import Call
from moonfast.api.endpoint import Endpoint, endpoint, rpc_method
from moonfast.api.names import candidate_paths, method_name
from moonfast.api.params import Parameters
from moonfast.api.table import EndpointTable, allowed
from moonfast.vocab import DELETE, GET, POST, Transport, Verb


class Items:
    @endpoint(GET, "/server/things/item")
    def get(self, call: Call) -> str:
        """Get."""
        return "got"

    @endpoint(POST, "/server/things/item")
    def post(self, call: Call) -> str:
        """Post."""
        return "posted"

    @endpoint(DELETE, "/server/things/item", transports=Transport.HTTP)
    def delete(self, call: Call) -> str:
        """Delete."""
        return "deleted"

    @endpoint(GET | POST, "/server/things/query")
    def query(self, call: Call) -> str:
        """Query."""
        return "queried"

    @rpc_method("things.here")
    def here(self, call: Call) -> str:
        """Here."""
        return "here"


def table_of(*owners: object) -> EndpointTable:
    table = EndpointTable()
    for owner in owners:
        table.collect(owner)
    table.complete()
    return table


def remote(path: str) -> Endpoint:
    def handle(call: Call) -> str:
        """Remote."""
        return "remote"

    return Endpoint(GET | POST, path, is_remote=True, handler=handle, parameters=Parameters(handle), doc="Remote.")


@pytest.mark.parametrize(
    ("path", "verb", "is_shared", "name"),
    [
        ("/server/files/list", Verb.GET, False, "server.files.list"),
        ("/server/database/item", Verb.DELETE, True, "server.database.delete_item"),
        ("/printer/objects/query", GET | POST, False, "printer.objects.query"),
        ("/x", Verb.POST, True, "post_x"),
    ],
)
def test_names(path: str, verb: Verb, is_shared: bool, name: str) -> None:
    assert method_name(path, verb, is_shared) == name
    assert path in [found for found, _ in candidate_paths(name)]


def test_lookups() -> None:
    table = table_of(Items())
    verbs = table.by_path("/server/things/item")
    assert verbs is not None
    assert list(verbs) == ["GET", "POST", "DELETE"]
    assert allowed(verbs) == ("GET", "POST", "DELETE", "HEAD", "OPTIONS")
    found = table.by_method("server.things.post_item")
    assert found is not None
    assert found.handler(Call(Transport.HTTP)) == "posted"
    assert table.by_method("server.things.delete_item") is None
    assert table.by_method("server.things.query") is not None
    assert table.by_method("things.here") is not None
    assert table.by_path("/things/here") is None
    assert len(list(table)) == 5


def test_two_tables_share_nothing() -> None:
    first, second = table_of(Items()), table_of(Items())
    first.add_remote([remote("/printer/x")])
    assert second.by_path("/printer/x") is None


def test_duplicates_are_refused() -> None:
    with pytest.raises(ValueError, match="GET /server/things/item is declared twice"):
        table_of(Items(), Items())


def test_an_endpoint_needs_a_docstring() -> None:
    class Silent:
        @endpoint(GET, "/silent")
        def silent(self, call: Call) -> None:
            pass

    with pytest.raises(TypeError, match="/silent has no docstring"):
        table_of(Silent())


def test_klippys_endpoints_come_and_go() -> None:
    table = table_of(Items())
    table.add_remote([remote("/printer/mesh/dump"), remote("/server/things/item")])
    found = table.by_method("printer.mesh.dump")
    assert found is not None
    assert found.is_remote
    assert list(table.by_path("/printer/mesh/dump") or ()) == ["GET", "POST"]
    own = table.by_path("/server/things/item")
    assert own is not None
    assert not own["GET"].is_remote
    table.remove_remote()
    assert table.by_method("printer.mesh.dump") is None
    assert table.by_path("/printer/mesh/dump") is None
    table.add_remote([remote("/printer/mesh/dump")])
    assert table.by_method("printer.mesh.dump") is not None
