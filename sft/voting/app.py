"""The voting page: what it asks the server for, and how a vote comes in."""

from dataclasses import asdict
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from sft.atomic import finite, make_folder, write_json, write_text
from sft.report.votes import votes_page
from sft.serving.fields import ApiError, Json, json_object, refuse, typed
from sft.serving.guard import Access, Guard
from sft.serving.web import HANDLERS, PAGE, json_response, page, read_body
from sft.voting.ballots import Arena, Ballot
from sft.voting.outcome import Outcome, outcome, remarks, summary_line
from sft.voting.votes import VoteFile, left

OWN_PAGE = Path(__file__).parent / "page"

# The longest name of a voter.
LONGEST = 40

OTHER = {"first": "second", "second": "first"}


def make_app(arena: Arena, file: VoteFile, access: Access) -> Starlette:
    """Return the application.

    Args:
        file: gets each vote.
        access: who may vote.
    """
    polls = Polls(arena, file)
    routes = [
        Route("/", partial(page, OWN_PAGE / "index.html")),
        Route("/page.css", partial(page, PAGE / "page.css")),
        Route("/vote.css", partial(page, OWN_PAGE / "vote.css")),
        Route("/vote.js", partial(page, OWN_PAGE / "vote.js")),
        Route("/ballot", polls.ballot),
        Route("/vote", polls.vote, methods=["POST"]),
        Route("/outcome", polls.outcome),
    ]
    guard = Middleware(Guard, access=access)
    return Starlette(routes=routes, middleware=[guard], exception_handlers=HANDLERS)


class Polls:
    """The requests of the page."""

    def __init__(self, arena: Arena, file: VoteFile) -> None:
        self.arena = arena
        self.file = file

    async def ballot(self, request: Request) -> Response:
        """Answer with the ballot of the given key, or with the voter's next one."""
        voter = voter_of(dict(request.query_params))
        key = request.query_params.get("ballot")
        return json_response(self._shown(voter, self._ballot(key) if key else self._next(voter)))

    async def vote(self, request: Request) -> Response:
        """Keep a vote, and answer with the voter's next ballot."""
        body = json_object(await read_body(request))
        voter = voter_of(body)
        ballot = self._ballot(typed(body, "ballot", str) or "")
        side = left(voter, ballot)
        choices = {"left": side, "right": OTHER[side], "tie": "tie", "bad": "bad"}
        choice = choices.get(typed(body, "choice", str) or "")
        if choice is None:
            refuse("choice", f"expected one of {', '.join(choices)}")
        self.file.give(self.arena, voter, ballot, choice)
        return json_response(self._shown(voter, self._next(voter)))

    async def outcome(self, _: Request) -> Response:
        # The page itself holds its policy.
        found = outcome(self.arena, self.file.by_key.values())
        headers = {"x-content-type-options": "nosniff", "referrer-policy": "no-referrer"}
        return HTMLResponse(outcome_page(found), headers=headers)

    def _ballot(self, key: str) -> Ballot:
        if key not in self.arena.by_key:
            raise ApiError(
                404, "ballot: no such ballot; load the page again", "ballot", "not_found"
            )
        return self.arena.by_key[key]

    def _next(self, voter: str) -> Ballot | None:
        """Return the first ballot on which the voter has not voted; None: there is none."""
        waiting = (ballot for ballot in self.arena.ballots if self.file.of(voter, ballot) is None)
        return next(waiting, None)

    def _shown(self, voter: str, ballot: Ballot | None) -> Json:
        """Return what a voter sees of a ballot. It does not say which model gave which answer."""
        ballots = self.arena.ballots
        done = sum(self.file.of(voter, one) is not None for one in ballots)
        found: Json = {"done": done, "total": len(ballots), "ballot": None}
        if ballot is not None:
            texts = [ballot.first_text, ballot.second_text]
            side = left(voter, ballot)
            if side == "second":
                texts.reverse()
            before = self.file.of(voter, ballot)
            choice = before.choice if before else None
            if choice in OTHER:
                choice = "left" if choice == side else "right"
            found["ballot"] = {
                "key": ballot.key,
                "before": ballot.record.before,
                "instruction": ballot.record.instruction,
                "input": ballot.record.input,
                "left": texts[0],
                "right": texts[1],
                "choice": choice,
            }
        return found


def voter_of(values: Json) -> str:
    """Return the name of the voter.

    Raises:
        ApiError: the name is missing or too long, or holds control characters.
    """
    name = (typed(values, "voter", str) or "").strip()
    if not 0 < len(name) <= LONGEST or not name.isprintable():
        refuse("voter", f"expected a name of 1 to {LONGEST} letters")
    return name


def outcome_page(found: Outcome) -> str:
    return votes_page(finite(asdict(found)), summary_line(found), remarks(found))


def write_outcome(folder: Path, found: Outcome) -> Path:
    """Write `outcome.json` and `report.html`, and return the page's path.

    Raises:
        InputError: a file cannot be written.
    """
    make_folder(folder)
    write_json(folder / "outcome.json", asdict(found))
    write_text(folder / "report.html", outcome_page(found))
    return folder / "report.html"
