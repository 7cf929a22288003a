"""``/docs``: the OpenAPI document as a page (Swagger UI), all of which this service sends itself."""

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from service.errors import NotFound

# The package carries Swagger UI (Apache-2.0); nothing else of it is used.
_SWAGGER_UI = Path(str(files("fastapi_offline"))) / "static"
_OWN = Path(str(files("service.console")))
_FILES = {
    "swagger-ui.css": _SWAGGER_UI / "swagger-ui.css",
    "swagger-ui-bundle.js": _SWAGGER_UI / "swagger-ui-bundle.js",
    "reference.js": _OWN / "reference.js",
}
_PAGE_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
_FILE_HEADERS = {"Cache-Control": "public, max-age=86400"}

router = APIRouter()


@router.get("/docs")
async def show_reference() -> FileResponse:
    """The page."""
    return FileResponse(_OWN / "reference.html", headers=_PAGE_HEADERS)


@router.get("/docs/{name}")
async def show_reference_file(name: str) -> FileResponse:
    """A file of the page."""
    if name not in _FILES:
        raise NotFound("no such file of the reference")
    return FileResponse(_FILES[name], headers=_FILE_HEADERS)
