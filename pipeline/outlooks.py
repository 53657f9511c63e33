"""What stages say they will need, worked out before anything is there: for `plan`, and to refuse what cannot be made."""

from __future__ import annotations

from collections.abc import Collection

from pipeline.errors import PlanOnly
from pipeline.stage import Outlook, Upstream
from pipeline.states import Survey


def outlooks(survey: Survey, building: Collection[str] = ()) -> dict[str, Outlook]:
    """Of each stage that is asked for and has one. PlanOnly where one of those about to be built cannot be made of what is before it;
    of others that is told in a line."""
    found: dict[str, Outlook] = {}
    nodes = survey.config.nodes
    for name, node in nodes.items():
        if name not in survey.closure or node.stage.plan is None:
            continue
        inputs = {
            role: Upstream(
                nodes[upstream].params if nodes[upstream].pin is None else None,  # what is pinned may have been made with others
                found[upstream].hands if upstream in found else None,
            )
            for role, upstream in node.needs.items()
        }
        try:
            outlook = node.stage.plan(node.params, node.run, node.assumed, inputs, survey.store.manifests(node.stage.name))
        except PlanOnly as error:
            if name in building:
                raise PlanOnly(f"{name}.{error}") from None
            outlook = Outlook({}, (f"{name}.{error}",))
        if outlook is not None:
            found[name] = outlook
    return found
