"""The least app that takes an event: what any other one in the worker costs comes on top of it."""

import azure.functions as func

app = func.FunctionApp()


@app.event_grid_trigger(arg_name="event")
def rotation_event(event: func.EventGridEvent) -> None:
    """Do nothing."""
