"""The MCP server: agents hand in problems as tool calls. Jobs run in this process or at a service."""

from orchestrator.api.mcp.desks import Desk, LocalDesk, RemoteDesk
from orchestrator.api.mcp.server import serve

__all__ = ["Desk", "LocalDesk", "RemoteDesk", "serve"]
