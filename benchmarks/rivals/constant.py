"""The ceiling of the web layer: FastAPI answering a constant, without a database."""

from fastapi import FastAPI

app = FastAPI()


@app.get("/sessions/{session_id}/messages")
def constant(session_id: int) -> dict[str, str]:
    """As little as there can be."""
    return {"status": "ok"}
