"""``GET /llms.txt``: what this API is and how to call it, for language models to read (llmstxt.org)."""

from importlib.resources import files

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse

router = APIRouter()


@router.get("/llms.txt")
async def show_llms_txt() -> PlainTextResponse:
    """The file beside this module; it says nothing of the shop, so nobody needs a key."""
    return PlainTextResponse(files(__package__).joinpath("llms.txt").read_text(encoding="utf-8"))
