"""Which model answers a request, and how: what the request names, else the user's arm, else the default."""

from model_store.encoding import Mode
from model_store.people.owner import owners_of
from service.engine.served_bundle import ServedBundle
from service.errors import InvalidRequest
from service.recommend.ask import Ask, Assignment, Query
from service.recommend.deadline import Deadline
from service.recommend.experiment import Experiment
from service.recommend.protocols import BundleSource
from service.recommend.trace import NOTHING, Trace, warning_of


class Chooser:
    """Chooses the bundle and the mode.

    Args:
        bundles: What is live.
        experiment: Splits users between kinds of models, if one is on.
        preferred_mode: Of a model that was trained for several, when the request names none.
    """

    def __init__(
        self, bundles: BundleSource, *, experiment: Experiment | None = None, preferred_mode: Mode = "retrieve"
    ) -> None:
        self._bundles = bundles
        self._experiment = experiment
        self._preferred_mode = preferred_mode

    def choose(self, query: Query) -> tuple[Ask, Trace]:
        """What answers this query; with a warning where that is not what the experiment would have.

        Raises:
            InvalidRequest: An unknown kind of model, or a mode that the model was not trained for.
            NotReady: No bundle is loaded.
        """
        served, assignment, warning = self._bundle(query)
        deadline = Deadline.after(query.timeout_seconds)
        ask = Ask(
            query, owners_of(query.user_id, query.session_id), served, self._mode(query, served), deadline, assignment
        )
        return ask, NOTHING if warning is None else warning_of(warning)

    def _bundle(self, query: Query) -> tuple[ServedBundle, Assignment | None, str | None]:
        experiment = self._experiment
        # Not every arm can generate, and whether a request is a mistake must not hang on a hash.
        if experiment is None or query.model is not None or query.mode == "generate":
            return self._bundles.get(query.model), None, None
        if query.user_id is None:
            warning = f"no_experiment_arm: without user_id nobody is assigned in {experiment.name}; the default answers"
            return self._bundles.get(), None, warning
        assignment = Assignment(experiment.name, experiment.arm_of(query.user_id))
        if self._bundles.is_live(assignment.arm):
            return self._bundles.get(assignment.arm), assignment, None
        served = self._bundles.get()
        warning = f"experiment_arm_not_live: no {assignment.arm} bundle is live, so {served.kind} answers"
        return served, assignment, warning

    def _mode(self, query: Query, served: ServedBundle) -> Mode:
        if query.mode is None:
            return self._preferred_mode if self._preferred_mode in served.modes else served.modes[0]
        if query.mode not in served.modes:
            raise InvalidRequest(
                f"mode {query.mode!r}: model {served.model_id} of kind {served.kind!r} was trained for "
                f"{' and '.join(served.modes)}",
                code="mode_not_available",
            )
        return query.mode
