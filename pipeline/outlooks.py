"""What stages say they will need, worked out before anything is there: for `plan`, and to refuse what cannot be made."""

from __future__ import annotations

from collections.abc import Collection

from pipeline.errors import PlanOnly
from pipeline.stage import Outlook, Prospect, Upstream
from pipeline.states import Survey


def outlooks(survey: Survey, building: Collection[str] = ()) -> dict[str, Outlook]:
    """Of each stage that is asked for and has one; what is pinned has none, since it may have been made with other settings. PlanOnly
    where one of those about to be built cannot be made of what is before it; of others that is told in a line."""
    found: dict[str, Outlook] = {}
    nodes = survey.config.nodes
    for name, node in nodes.items():
        if name not in survey.closure or node.stage.plan is None or node.pin is not None:
            continue
        inputs = {
            role: Upstream(
                nodes[upstream].params if nodes[upstream].pin is None else None,
                found[upstream].hands if upstream in found else None,
            )
            for role, upstream in node.needs.items()
        }
        manifests = survey.store.manifests(node.stage.name)
        try:
            outlook = node.stage.plan(Prospect(node.params, node.run, node.assumed, inputs, tuple(survey.stamps(node)), manifests))
        except PlanOnly as error:
            if name in building:
                raise PlanOnly(f"{name}.{error}") from None
            outlook = Outlook({"refused": f"{name}.{error}"}, (f"{name}.{error}",))
        if outlook is not None:
            found[name] = outlook
    return found
